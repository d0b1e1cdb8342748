#include "plan/cuda/sm90/kernels.hpp"

#include <fmt/format.h>

#include "plan/cuda/common.hpp"

namespace fa::sm90 {

namespace {

/// Why the forward kernel does not serve the problem; empty where it does.
std::string forward_refusal(const Problem& p, const GpuLimits& gpu) {
  if (gpu.arch != "sm_90a") return fmt::format("it is for sm_90a, the GPU is {}", gpu.arch);
  const auto serves = [](int64_t head_dim) { return head_dim >= 64 && head_dim <= 256; };
  if (!serves(p.head_dim) || !serves(p.head_dim_v)) {
    return fmt::format("its head_dim is 64 to 256, this is {}, {} of v", p.head_dim, p.head_dim_v);
  }
  // It copies other rows by hand, which sm80 does faster; but the family may not depend on the rows
  // where the same bits are asked for, whatever stands beside a sequence.
  if (p.alignment < 16 && !p.run.batch_invariant && p.run.family == Family::automatic) {
    return fmt::format("its copies are for rows aligned to 16 bytes, these are to {}", p.alignment);
  }
  return {};
}

}  // namespace

ForwardKernel forward(const Problem& p, const ForwardTile& t) {
  KernelConfig config;
  add_problem(config, p)
      .number("groups", t.groups)
      .flag("side_by_side", t.heads > 1)
      .number("keys", t.keys)
      .number("key_stages", t.key_stages)
      .number("value_stages", t.value_stages)
      .number("query_stages", t.query_stages)
      .number("loader_registers", t.loader_registers)
      .number("group_registers", t.group_registers())
      .flag("turns", t.turns, true)
      .flag("staged_out", t.staged_out)
      .flag("claims", t.claims)
      .number("steps_ahead", t.steps_ahead)
      .number("shared_bytes", shared_bytes(t, p.head_dim, p.head_dim_v))
      .format("sinks", p.score.sinks, p.score.sinks_dtype);
  return {
      .cut = {.rows = t.positions(), .heads = t.heads, .keys = t.keys, .blocks_per_sm = 1},
      .config = config,
      .source = {"fa_sm90_forward",
                 {"sm90/forward.cuh"},
                 "fa::sm90::ForwardConfig",
                 "fa::sm90::Forward<Config>"},
      .over = Over::tiles,
      .claims = t.claims,
      .copies_out = t.staged_out,
      .threads = t.threads(),
      .shared_bytes = shared_bytes(t, p.head_dim, p.head_dim_v),
      .text = fmt::format(
          "tile: {} rows ({} groups of 64{}) of {}, {} keys a step\n"
          "in shared memory: {} of q, {} steps of k, {} of v{}\norder of tiles: {}\n",
          t.rows(), t.groups, t.turns ? " that take turns" : "",
          t.heads == 1 ? "one head" : fmt::format("{} heads side by side", t.heads), t.keys,
          t.query_stages, t.key_stages, t.value_stages, t.staged_out ? ", rows of out" : "",
          t.claims ? "as blocks claim them" : "fixed"),
  };
}

Offered<ForwardKernel> forward(const Problem& problem, const GpuLimits& gpu) {
  if (std::string refusal = forward_refusal(problem, gpu); !refusal.empty()) return {{}, refusal};
  return {forward(problem, forward_tile(problem)), {}};
}

Offered<BackwardKernel> backward(const Problem&, const GpuLimits&) {
  return {{}, "it has no backward pass"};
}

}  // namespace fa::sm90
