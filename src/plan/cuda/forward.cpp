#include "plan/cuda/forward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <climits>

#include "kernels/common/params.h"
#include "plan/cuda/common.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "plan/cuda/sm80/kernels.hpp"
#include "plan/cuda/sm90/kernels.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

// Fewer keys than this in a split cost more to join than they save.
constexpr int64_t min_split_keys = 256;
constexpr int64_t max_splits = 64;

ForwardKernel kernel_of(const Problem& p, const FamilyTile& tile) {
  const auto* sm90_tile = std::get_if<sm90::ForwardTile>(&tile);
  return sm90_tile != nullptr ? sm90::forward(p, *sm90_tile)
                              : sm80::forward(p, std::get<ForwardTile>(tile));
}

KernelSpec combine_kernel(const Problem& p) {
  KernelConfig config;
  config.format("element", true, p.dtype)
      .format("sinks", p.score.sinks, p.score.sinks_dtype)
      .number("head_dim_v", p.head_dim_v)
      .number("alignment", std::min(p.alignment, 8));
  return kernel_spec({"fa_combine",
                      {"pass/combine.cuh"},
                      "fa::kernel::ProblemConfig",
                      "fa::pass::Combine<Config>"},
                     config, 32 * kernel::joined_rows);
}

KernelSpec join_kernel(const Problem& p) {
  constexpr int warps = 4, warp_columns = 128;
  KernelConfig config;
  config.format("element", true, p.dtype)
      .format("sinks", p.score.sinks, p.score.sinks_dtype)
      .number("head_dim_v", p.head_dim_v)
      .number("alignment", std::min(p.alignment, 8));
  return kernel_spec({"fa_join_shares",
                      {"pass/join_shares.cuh"},
                      "fa::kernel::ProblemConfig",
                      "fa::pass::JoinShares<Config>"},
                     config, 32 * warps, 0,
                     static_cast<int>(ceil_div(p.head_dim_v, warp_columns)) * warps * 32 * 16);
}

/// Tiles of rows of all heads.
int row_blocks(CudaForwardPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t rows = plan.cut.rows;
  const int64_t row_tiles = tiles_of_head(p.q.packed, p.q.seqlen, p.q.tokens, p.batch, rows);
  plan.row_tiles = static_cast<int>(row_tiles);
  const int64_t heads = p.q.heads / plan.cut.heads;
  return checked_blocks("q", row_tiles * (p.q.packed ? heads : p.batch * heads), rows);
}

/// Blocks that the device runs at once.
int64_t slots(const CudaForwardPlan& plan) {
  return int64_t{plan.gpu.sm_count} * plan.cut.blocks_per_sm;
}

// A section's first tiles read its keys from memory, the others from L2. Blocks that stay work on
// several sections at once if these are small, so a section of short sequences has twice as many
// tiles as the device runs blocks (7% of the time at 512 keys), but this many heads at least.
constexpr int64_t least_in_small_section = 8;

/// Heads of blocks in whole groups, whose long tiles all go first. Without a mask from the right
/// one head follows the other.
int choose_section(const CudaForwardPlan& plan, Over over) {
  const Problem& p = plan.problem;
  if (p.score.window_right < 0 || p.q.packed) return 1;
  const int64_t bytes = p.k.seqlen * (p.head_dim + p.head_dim_v) * 2;
  const int64_t group = p.group() / plan.cut.heads;
  int64_t most = INT64_MAX;
  if (over == Over::tiles) {
    const int64_t heads = 2 * slots(plan) / std::max(plan.row_tiles, 1);
    most = std::max<int64_t>(std::max(heads, least_in_small_section) / group, 1);
  }
  return static_cast<int>(groups_in_section(p.batch * p.k.heads, bytes, most) * group);
}

int64_t keys_of_split(const CudaForwardPlan& plan, int64_t splits) {
  return round_up(ceil_div(plan.problem.k.seqlen, splits), plan.cut.keys);
}

/// As many splits as fill the device once, where the row tiles alone leave much of it idle. Their
/// number depends on the batch, so a problem that wants its bits not to is never split.
int choose_splits(const CudaForwardPlan& plan, int blocks) {
  const Problem& p = plan.problem;
  if (p.run.batch_invariant || blocks == 0) return 1;
  const int64_t work = int64_t{blocks} * plan.cut.value_slices;
  if (2 * work > slots(plan)) return 1;
  const int64_t keys = std::min(p.k.seqlen, p.keys_of_row() + plan.cut.rows - 1);
  const int64_t wanted = std::min({slots(plan) / work, keys / min_split_keys, max_splits});
  if (wanted <= 1) return 1;
  return static_cast<int>(ceil_div(p.k.seqlen, keys_of_split(plan, wanted)));  // none is empty
}

/// Splits along the keys, and the memory in which their results wait to be joined.
void cut_keys(CudaForwardPlan& plan, int splits) {
  const Problem& p = plan.problem;
  plan.splits = splits;
  plan.split_keys = static_cast<int>(std::min<int64_t>(keys_of_split(plan, splits), INT_MAX / 2));
  if (splits == 1) return;
  plan.partial_rows = p.q.heads * (p.q.packed ? p.q.tokens : p.batch * p.q.seqlen);
  plan.workspace_bytes =
      static_cast<size_t>(splits) * plan.partial_rows * (p.head_dim_v + 1) * sizeof(float);
}

/// Memory in which the results of a tile's parts wait to be joined: a share has two. Long shares
/// are several for each block, fewer where each has many rows.
void share_keys(CudaForwardPlan& plan) {
  const Problem& p = plan.problem;
  plan.partial_rows = plan.cut.heads * std::min<int64_t>(p.q.seqlen, plan.cut.rows);
  constexpr int64_t most_of_block = 4, all_rows = 64;
  const int64_t of_block = std::clamp<int64_t>(all_rows / plan.partial_rows, 1, most_of_block);
  plan.shares = static_cast<int>(slots(plan) * of_block);
  const auto shares = static_cast<size_t>(plan.shares);
  plan.shared_tiles = round_up(2 * shares * static_cast<size_t>(plan.partial_rows) *
                                   static_cast<size_t>(p.head_dim_v + 1) * sizeof(float),
                               alignof(kernel::SharedTile));
  plan.workspace_bytes =
      plan.shared_tiles + shares * sizeof(kernel::SharedTile) + sizeof(int);  // their number
}

/// Blocks that stay are as many as the device runs at once.
Grid main_grid(const CudaForwardPlan& plan, Over over) {
  const auto blocks = static_cast<unsigned>(plan.blocks),
             splits = static_cast<unsigned>(plan.splits);
  if (over == Over::tiles) {
    if (plan.shares > 0) return {blocks > 0 ? static_cast<unsigned>(slots(plan)) : 0};
    return {std::min(blocks * splits, static_cast<unsigned>(slots(plan)))};
  }
  return {blocks, splits, static_cast<unsigned>(plan.cut.value_slices)};
}

}  // namespace

CudaForwardPlan plan_cuda_forward(const Problem& problem, const GpuLimits& gpu,
                                  const ForwardTuning& tuning) {
  need_offered(problem);
  ForwardKernel kernel =
      tuning.tile ? kernel_of(problem, *tuning.tile) : forward_kernel(problem, gpu);
  CudaForwardPlan plan;
  plan.problem = problem;
  plan.gpu = gpu;
  plan.cut = kernel.cut;
  plan.tile_text = kernel.text;
  plan.blocks = row_blocks(plan);
  const int64_t heads = std::max<int64_t>(problem.batch * problem.q.heads / plan.cut.heads, 1);
  plan.section = tuning.section ? static_cast<int>(std::min<int64_t>(*tuning.section, heads))
                                : choose_section(plan, kernel.over);
  if (kernel.shares && !tuning.splits) {
    share_keys(plan);
  } else {
    cut_keys(plan, tuning.splits ? *tuning.splits : choose_splits(plan, plan.blocks));
  }
  const bool split = plan.splits > 1;
  kernel.config.flag("split", split).flag("shares", plan.shares > 0);
  plan.launches.push_back({.kernel = kernel_spec(kernel.source, kernel.config, kernel.threads,
                                                 kernel.cut.blocks_per_sm, kernel.shared_bytes),
                           .over = kernel.over,
                           .grid = main_grid(plan, kernel.over)});
  plan.copies_out = kernel.copies_out && !split;
  plan.page_rows = kernel.page_rows;
  plan.bias_box_rows = kernel.bias_box_rows;
  plan.problem.score.bias_aligned = plan.bias_box_rows > 0;  // which a run must keep
  if (kernel.claims) {
    plan.claims = true;
    plan.workspace_bytes =
        round_up(plan.workspace_bytes, sizeof(kernel::TileCounter)) + sizeof(kernel::TileCounter);
  }
  if (split) {
    plan.launches.push_back({.kernel = combine_kernel(problem),
                             .over = Over::splits,
                             .grid = {blocks_that_join(plan.partial_rows)}});
  }
  if (plan.shares > 0) {
    plan.launches.push_back(
        {.kernel = join_kernel(problem),
         .over = Over::shares,
         .grid = {static_cast<unsigned>(plan.partial_rows), plan.launches.front().grid.x},
         .dependent = true});
  }
  return plan;
}

unsigned blocks_that_join(int64_t rows) {
  const int64_t blocks = ceil_div(rows, kernel::joined_rows);
  if (blocks > INT32_MAX) {
    fail(Status::unsupported, "out", "has {} rows; CUDA devices join up to {}", rows,
         int64_t{INT32_MAX} * kernel::joined_rows);
  }
  return static_cast<unsigned>(blocks);
}

std::string to_text(const CudaForwardPlan& plan) {
  const KernelSpec& main = plan.main();
  std::string text = heading(plan.problem, plan.gpu);
  text += fmt::format(
      "kernel: {} ({} threads, {} bytes of shared memory, {} blocks of a multiprocessor)\n{}"
      "grid: {} blocks, {} tiles, {} splits, {} slices of v, sections of {} heads\n",
      main.entry, main.threads, main.shared_bytes, plan.cut.blocks_per_sm, plan.tile_text,
      plan.launches.front().grid.x, plan.blocks, plan.splits, plan.cut.value_slices, plan.section);
  if (plan.splits > 1) text += fmt::format("keys of a split: {}\n", plan.split_keys);
  const KernelSpec* combine = plan.kernel(plan.shares > 0 ? "fa_join_shares" : "fa_combine");
  text += combine != nullptr
              ? fmt::format("combine kernel: {} ({} threads)\n", combine->entry, combine->threads)
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
