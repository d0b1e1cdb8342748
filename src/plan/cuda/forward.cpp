#include "plan/cuda/forward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <climits>

#include "kernels/common/params.h"
#include "plan/cuda/common.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

// Fewer keys than this in a split cost more to join than they save.
constexpr int64_t min_split_keys = 256;
constexpr int64_t max_splits = 64;

KernelSpec forward_kernel(const CudaPlan& plan) {
  const Problem& p = plan.problem;
  const ForwardTile& t = plan.tile;
  KernelConfig config;
  add_problem(config, p)
      .number("value_columns", value_columns(t, p.head_dim_v))
      .number("warps", t.warps)
      .number("warp_rows", t.warp_rows)
      .number("keys", t.keys)
      .number("groups", t.groups)
      .number("stages", t.stages)
      .number("query_slices", t.query_slices)
      .flag("stale_maximum", t.stale_maximum)
      .format("sinks", p.sinks, p.sinks_dtype)
      .flag("split", plan.splits > 1);
  return kernel_spec({"fa_sm80_forward",
                      {"sm80/forward.cuh"},
                      "fa::sm80::ForwardConfig",
                      "fa::sm80::Forward<Config>"},
                     config, 32 * t.warps, t.min_blocks, shared_bytes(t, p.head_dim, p.head_dim_v));
}

KernelSpec combine_kernel(const Problem& p) {
  KernelConfig config;
  config.format("element", true, p.dtype)
      .format("sinks", p.sinks, p.sinks_dtype)
      .number("head_dim_v", p.head_dim_v)
      .number("alignment", std::min(p.alignment, 8));
  return kernel_spec({"fa_combine",
                      {"pass/combine.cuh"},
                      "fa::kernel::ProblemConfig",
                      "fa::pass::Combine<Config>"},
                     config, 32 * kernel::joined_rows);
}

/// Row tiles and the grid that they make with the heads.
void cut_rows(CudaPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t rows = plan.tile.rows();
  const int64_t row_tiles = tiles_of_head(p.packed_q, p.seqlen_q, p.tokens_q, p.batch, rows);
  plan.blocks =
      checked_blocks("q", row_tiles * (p.packed_q ? p.heads_q : p.batch * p.heads_q), rows);
  plan.row_tiles = static_cast<int>(row_tiles);
}

/// Heads in whole groups, whose long tiles all go first. Without a mask from the right one head
/// follows the other.
int choose_section(const CudaPlan& plan) {
  const Problem& p = plan.problem;
  if (p.window_right < 0 || p.packed_q) return 1;
  const int64_t bytes = p.seqlen_k * (p.head_dim + p.head_dim_v) * 2;
  return static_cast<int>(groups_in_section(p.batch * p.heads_k, bytes) * p.group());
}

int64_t keys_of_split(const CudaPlan& plan, int64_t splits) {
  return round_up(ceil_div(plan.problem.seqlen_k, splits), plan.tile.keys);
}

/// As many splits as fill the device once, where the row tiles alone leave much of it idle. Their
/// number depends on the batch, so a problem that wants its bits not to is never split.
int choose_splits(const CudaPlan& plan) {
  const Problem& p = plan.problem;
  if (p.batch_invariant || plan.blocks == 0) return 1;
  const int64_t slots = int64_t{plan.gpu.sm_count} * plan.tile.min_blocks;
  const int64_t work = plan.blocks * plan.tile.value_slices;
  if (2 * work > slots) return 1;
  const int64_t keys = std::min(p.seqlen_k, p.keys_of_row() + plan.tile.rows() - 1);
  const int64_t wanted = std::min({slots / work, keys / min_split_keys, max_splits});
  if (wanted <= 1) return 1;
  return static_cast<int>(ceil_div(p.seqlen_k, keys_of_split(plan, wanted)));  // none is empty
}

/// Splits along the keys, what joins them, and the memory between the two.
void cut_keys(CudaPlan& plan, int splits) {
  const Problem& p = plan.problem;
  plan.splits = splits;
  plan.split_keys = static_cast<int>(std::min<int64_t>(keys_of_split(plan, splits), INT_MAX / 2));
  if (splits == 1) return;
  plan.combine = combine_kernel(p);
  plan.partial_rows = p.heads_q * (p.packed_q ? p.tokens_q : p.batch * p.seqlen_q);
  plan.workspace_bytes =
      static_cast<size_t>(splits) * plan.partial_rows * (p.head_dim_v + 1) * sizeof(float);
}

}  // namespace

CudaPlan plan_cuda(const Problem& problem, const GpuLimits& gpu, const CudaTuning& tuning) {
  need_offered(problem);
  CudaPlan plan;
  plan.problem = problem;
  plan.gpu = gpu;
  plan.tile = tuning.tile ? *tuning.tile : forward_tile(problem, gpu);
  cut_rows(plan);
  plan.section = tuning.section ? *tuning.section : choose_section(plan);
  cut_keys(plan, tuning.splits ? *tuning.splits : choose_splits(plan));
  plan.forward = forward_kernel(plan);
  return plan;
}

std::string to_text(const CudaPlan& plan) {
  const Problem& p = plan.problem;
  const ForwardTile& t = plan.tile;
  std::string text = heading(p, plan.gpu);
  text += fmt::format(
      "kernel: {} ({} threads, {} bytes of shared memory, {} blocks of a multiprocessor)\n"
      "registers of a thread: {} for O, S, P and Q, of {}\n"
      "tile: {} rows ({} warps of {}), {} keys a step, {} steps in shared memory\n"
      "query in registers: {} of {} slices\nmaximum: {}\ngroups that take turns: {}\n"
      "grid: {} blocks, {} splits, {} slices of v, sections of {} heads\n",
      plan.forward.entry, plan.forward.threads, plan.forward.shared_bytes, t.min_blocks,
      registers(t, p.head_dim_v), register_limit(t), t.rows(), t.warps, t.warp_rows, t.keys,
      t.stages, t.query_slices, (p.head_dim + 15) / 16, t.stale_maximum ? "stale" : "exact",
      t.groups, plan.blocks, plan.splits, t.value_slices, plan.section);
  if (plan.splits > 1) text += fmt::format("keys of a split: {}\n", plan.split_keys);
  text += plan.combine ? fmt::format("combine kernel: {} ({} threads)\n", plan.combine->entry,
                                     plan.combine->threads)
                       : "combine kernel: none\n";
  return text + fmt::format("workspace: {} bytes\n", plan.workspace_bytes);
}

KernelSpec merge_kernel(DType dtype) {
  KernelConfig config;
  config.format("element", true, dtype);
  return kernel_spec(
      {"fa_merge", {"pass/merge.cuh"}, "fa::kernel::ProblemConfig", "fa::pass::Merge<Config>"},
      config, 32 * kernel::joined_rows);
}

}  // namespace fa
