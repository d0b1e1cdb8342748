#include "plan/cuda/sm90/kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "plan/cuda/common.hpp"

namespace fa::sm90 {

namespace {

/// Why the kernels of neither pass serve the problem; empty where they do.
std::string refusal_of(const Problem& p, const GpuLimits& gpu) {
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

/// Rows that a copy brings of a page, where its rows are aligned for the copy engine: pages and
/// steps consist of such pieces. Fewer than the swizzle's 8 are not worth a copy each: 0.
int page_rows(const Problem& p, int step_keys) {
  const auto rows = static_cast<int>(std::gcd(p.k.page_size, int64_t{step_keys}));
  return p.alignment == 16 && rows >= 8 ? rows : 0;
}

bool is_wide(const Problem& p) { return std::max(p.head_dim, p.head_dim_v) > 128; }

/// The same of the backward kernels.
std::string backward_refusal(const Problem& p, const GpuLimits& gpu) {
  if (std::string refusal = refusal_of(p, gpu); !refusal.empty()) return refusal;
  if (is_wide(p) && p.score.softcap > 0 && p.wants.dbias) {
    return "it has no gradient of a bias beside a softcap for a head_dim beyond 128";
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
      .flag("claims", t.claims || t.shares)
      .number("steps_ahead", t.steps_ahead)
      .number("shared_bytes", shared_bytes(t, p))
      .format("sinks", p.score.sinks, p.score.sinks_dtype);
  const int page = p.k.page_size > 0 ? page_rows(p, t.keys) : 0;
  if (page > 0) config.number("page_rows", page);
  const bool only_alibi = p.score.alibi && !p.score.bias && p.score.softcap == 0;
  config.flag("alibi_rises", only_alibi && p.score.window_right == 0);
  if (t.bias_stages > 0) {
    config.number("bias_stages", t.bias_stages).flag("bias_per_row", p.score.bias_per_row);
  }
  return {
      .cut = {.rows = t.positions(), .heads = t.heads, .keys = t.keys, .blocks_per_sm = 1},
      .config = config,
      .source = {"fa_sm90_forward",
                 {"sm90/forward.cuh"},
                 "fa::sm90::ForwardConfig",
                 "fa::sm90::Forward<Config>"},
      .over = Over::tiles,
      .shares = t.shares,
      .claims = t.claims || t.shares,
      .copies_out = t.staged_out,
      .page_rows = page,
      .bias_box_rows = t.bias_stages > 0 ? bias_rows(t, p) : 0,
      .threads = t.threads(),
      .shared_bytes = shared_bytes(t, p),
      .text =
          fmt::format("tile: {} rows ({} groups of 64{}) of {}, {} keys a step\n"
                      "in shared memory: {} of q, {} steps of k, {} of v{}{}\norder of tiles: {}\n",
                      t.rows(), t.groups, t.turns ? " that take turns" : "",
                      t.heads == 1 ? "one head" : fmt::format("{} heads side by side", t.heads),
                      t.keys, t.query_stages, t.key_stages, t.value_stages,
                      t.bias_stages > 0 ? fmt::format(", {} of the bias", t.bias_stages) : "",
                      t.staged_out ? ", rows of out" : "",
                      t.shares   ? "equal shares of their steps"
                      : t.claims ? "as blocks claim them"
                                 : "fixed"),
  };
}

Offered<ForwardKernel> forward(const Problem& problem, const GpuLimits& gpu) {
  if (std::string refusal = refusal_of(problem, gpu); !refusal.empty()) return {{}, refusal};
  const ForwardTile tile = forward_tile(problem);
  const bool chosen = problem.run.batch_invariant || problem.run.family != Family::automatic;
  if (problem.k.page_size > 0 && page_rows(problem, tile.keys) == 0 && !chosen) {
    return {{},
            fmt::format("its copies are of 8 keys of a page or more, pages have {}",
                        problem.k.page_size)};
  }
  return {forward(problem, tile), {}};
}

namespace {

/// What the backward kernels have alike. `dq_parts`: of the sums of a tile of rows, each with its
/// counter.
template <typename Tile>
BackwardKernel backward_of(const Problem& p, const Tile& t, int dq_parts) {
  const int columns = sum_columns(t, p.head_dim), width = pad16(p.head_dim_v);
  const int bytes = shared_bytes(t, p.head_dim, p.head_dim_v);
  KernelConfig config;
  add_problem(config, p)
      .number("rows", t.rows)
      .number("keys", t.keys)
      .number("depth", columns)
      .number("width", width)
      .number("shared_bytes", bytes)
      .number("dq_parts", dq_parts)
      .flag("rotates", t.rotates)
      .flag("clears_sums", t.clears_sums);
  return {
      .cut = {.rows = t.rows,
              .keys = t.keys,
              .blocks_per_sm = 1,
              .threads = t.other_threads,
              .columns = columns,
              .value_columns = width,
              .dq_turns = dq_parts,
              .clears_sums = t.clears_sums},
      .config = config,
      .main = {},
      .over = Over::key_tiles,
      .threads = t.threads,
      .shared_bytes = bytes,
      .shapes_file = "sm90/backward_shapes.cuh",
      .shapes = "fa::sm90::BackwardSums<Config>",
      .text = {},
  };
}

}  // namespace

BackwardKernel backward(const Problem& p, const BackwardTile& t) {
  BackwardKernel kernel = backward_of(p, t, t.groups);
  kernel.cut.first_stores = t.first_stores;
  kernel.config.number("key_stages", t.key_stages)
      .number("value_stages", t.value_stages)
      .flag("first_stores", t.first_stores);
  kernel.main = {"fa_sm90_backward",
                 {"sm90/backward.cuh"},
                 "fa::sm90::BackwardConfig",
                 "fa::sm90::Backward<Config>"};
  kernel.text = fmt::format(
      "tile: {} keys (2 groups of 64), {} rows a step\n"
      "in shared memory: {} of k, {} of v, 2 steps of q and dout\n",
      t.keys, t.rows, t.key_stages, t.value_stages);
  return kernel;
}

BackwardKernel backward(const Problem& p, const WideBackwardTile& t) {
  BackwardKernel kernel = backward_of(p, t, t.dq_parts);
  kernel.cut.cluster = t.cluster;
  kernel.cut.dout_by_panels = splits_dout(p.head_dim_v);
  kernel.main = {"fa_sm90_wide_backward",
                 {"sm90/wide_backward.cuh"},
                 "fa::sm90::BackwardConfig",
                 "fa::sm90::WideBackward<Config>",
                 t.cluster};
  kernel.text = fmt::format(
      "tile: {} keys ({} blocks of 64), {} rows a step\n"
      "in shared memory: 1 of k and v, 2 steps of q, {} of dout\n",
      t.keys, t.cluster, t.rows, splits_dout(p.head_dim_v) ? "1.5" : "2");
  return kernel;
}

Offered<BackwardKernel> backward(const Problem& problem, const GpuLimits& gpu) {
  if (std::string refusal = backward_refusal(problem, gpu); !refusal.empty()) return {{}, refusal};
  if (is_wide(problem)) return {backward(problem, wide_backward_tile(problem)), {}};
  return {backward(problem, backward_tile(problem)), {}};
}

}  // namespace fa::sm90
