#include "plan/cuda/backward.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "plan/cuda/common.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

// Blocks of the main kernel for each that the device runs at a time: with fewer, one that begins
// late ends late (Llama 3.1 405B at 8k has 3.9, and took 1.4 times as long as with 15.5).
constexpr int64_t least_waves = 12;

bool sequences_share_bias(const Problem& p) { return !p.bias_per_batch && p.batch > 1; }
bool heads_share_bias(const Problem& p) { return !p.bias_per_head && p.heads_q > 1; }
bool rows_share_bias(const Problem& p) { return !p.bias_per_row && p.seqlen_q > 1; }
/// Whether blocks add to the same numbers of the bias's gradient; those that share keys over all
/// rows have sums of their own.
bool blocks_share_bias(const Problem& p) {
  // mutant "CUDA plan: shared bias" of cuda_backward_plan_test: heads_share_bias(p) => false
  return p.dbias && !rows_share_bias(p) && (sequences_share_bias(p) || heads_share_bias(p));
}

int64_t padded(bool packed, int64_t seqlen, int64_t tokens, int64_t batch, int64_t tile) {
  return packed ? round_up(tokens, tile) + (batch + 1) * tile : batch * round_up(seqlen, tile);
}

void cut(CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardTile& t = plan.tile;
  const int64_t key_tiles = tiles_of_head(p.packed_k, p.seqlen_k, p.tokens_k, p.batch, t.keys);
  const int64_t row_tiles = tiles_of_head(p.packed_q, p.seqlen_q, p.tokens_q, p.batch, t.rows);
  plan.key_blocks = checked_blocks("k", key_tiles * p.heads_k * (p.packed_k ? 1 : p.batch), t.keys);
  plan.row_blocks = checked_blocks("q", row_tiles * p.heads_q * (p.packed_q ? 1 : p.batch), t.rows);
  plan.key_tiles = static_cast<int>(key_tiles);
  plan.row_tiles = static_cast<int>(row_tiles);
  plan.padded_rows = padded(p.packed_q, p.seqlen_q, p.tokens_q, p.batch, t.rows);
  plan.padded_keys = padded(p.packed_k, p.seqlen_k, p.tokens_k, p.batch, t.keys);
  plan.by_sequence = in_order(p) && blocks_share_bias(p) && sequences_share_bias(p);
  plan.by_head = in_order(p) && blocks_share_bias(p) && heads_share_bias(p);
}

/// Q, dO and dQ's sum of a query head, which blocks that begin at other times read again.
int64_t row_bytes(const Problem& p) {
  return p.seqlen_q * (2 * (p.head_dim + p.head_dim_v) + 4 * p.head_dim);
}

/// Shares the heads of a group out to blocks, for enough of these and for heads that fit the L2.
/// Their number depends on the batch, so a problem that wants its bits not to is never shared out.
int choose_parts(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  if (p.batch_invariant || plan.by_head || plan.key_blocks == 0) return 1;
  // In order a block with two heads made its successors wait (Qwen2.5 72B at 8k: 1.30 to 1.09).
  if (p.deterministic) return static_cast<int>(p.group());
  const int64_t slots = int64_t{plan.gpu.sm_count} * plan.tile.min_blocks;
  const int64_t for_blocks = ceil_div(least_waves * slots, plan.key_blocks);
  const int64_t for_memory = ceil_div(p.group() * row_bytes(p), section_bytes);
  return static_cast<int>(std::clamp<int64_t>(std::max(for_blocks, for_memory), 1, p.group()));
}

int choose_section(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  // In order, blocks of one head that begin together wait for each other.
  const bool alternate = p.window_right >= 0 || in_order(p);
  if (!alternate || p.packed_k || plan.by_sequence || plan.by_head) return 1;
  return static_cast<int>(
      groups_in_section(p.batch * p.heads_k * plan.parts, plan.part_heads * row_bytes(p)));
}

void share_keys(CudaBackwardPlan& plan, int parts) {
  const Problem& p = plan.problem;
  while (p.group() % parts != 0) ++parts;  // as many heads in each
  plan.parts = parts;
  plan.part_heads = static_cast<int>(p.group() / parts);
  checked_blocks("k", int64_t{plan.key_blocks} * plan.parts, plan.tile.keys);
}

void size_workspace(CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardTile& t = plan.tile;
  BackwardWorkspace& bytes = plan.workspace;
  bytes.lse = bytes.delta = p.heads_q * plan.padded_rows * 4;
  bytes.dq_sum = bytes.lse * padded_columns(t, p.head_dim);
  if (in_order(p)) bytes.dq_turns = bytes.lse / t.rows;
  if (plan.parts > 1) {
    const int64_t keys = p.heads_k * plan.padded_keys * 4;
    bytes.dk_sum = keys * padded_columns(t, p.head_dim);
    bytes.dv_sum = keys * padded_columns(t, p.head_dim_v);
    bytes.key_turns = keys / t.keys;
  }
  if (p.dbias && rows_share_bias(p)) {
    bytes.dbias_sum = t.row_warps * p.batch * p.heads_q * p.seqlen_k * 4;
  } else if (blocks_share_bias(p)) {
    bytes.dbias_sum = plan.bias_rows * p.seqlen_k * 4;
  }
  if (p.dtype == float16) bytes.ranges = 4 * p.batch * (2 * p.heads_q + p.heads_k);
}

KernelConfig config(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardTile& t = plan.tile;
  const int depth = padded_columns(t, p.head_dim), width = padded_columns(t, p.head_dim_v);
  KernelConfig constants;
  add_problem(constants, p)
      .number("warps", t.warps)
      .number("rows", t.rows)
      .number("keys", t.keys)
      .number("row_warps", t.row_warps)
      .number("column_warps", t.column_warps)
      .number("stages", t.stages)
      .number("query_parts", t.query_parts)
      .number("depth", depth)
      .number("width", width)
      .number("key_slices", std::min(t.key_slices, depth / 16))
      .number("value_slices", std::min(t.value_slices, width / 16))
      .number("shared_bytes", shared_bytes(t, p.head_dim, p.head_dim_v))
      .flag("query_last", t.query_last || in_order(p))
      .flag("deterministic", in_order(p))
      .format("dbias", p.dbias, p.dbias_dtype)
      .flag("bias_per_row", p.dbias && !rows_share_bias(p))
      .flag("bias_shared", blocks_share_bias(p))
      .format("sinks", p.dsinks, p.sinks_dtype)
      .format("dsinks", p.dsinks, p.dsinks_dtype);
  return constants;
}

/// One of the kernels before and after the main one, which are any family's.
KernelSpec pass_kernel(const KernelConfig& constants, const BackwardTile& tile,
                       std::string_view entry, std::string_view file, std::string_view type,
                       int shared_bytes = 0) {
  const std::string kernel = fmt::format("fa::pass::{}<fa::sm80::BackwardShapes<Config>>", type);
  return kernel_spec(
      {entry, {"sm80/backward_shapes.cuh", file}, "fa::sm80::BackwardConfig", kernel}, constants,
      32 * tile.warps, 0, shared_bytes);
}

void choose_kernels(CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardTile& t = plan.tile;
  KernelConfig constants = config(plan);
  const auto kernel = [&](std::string_view entry, std::string_view file, std::string_view type,
                          int shared_bytes = 0) {
    return pass_kernel(constants, t, entry, file, type, shared_bytes);
  };
  const int depth = padded_columns(t, p.head_dim), width = padded_columns(t, p.head_dim_v);
  plan.prepare = kernel("fa_backward_prepare", "pass/prepare.cuh", "Prepare");
  plan.finish = kernel("fa_backward_finish", "pass/finish.cuh", "FinishRows", 2 * t.rows * depth);
  if (plan.parts > 1) {
    plan.finish_keys = kernel("fa_backward_finish_keys", "pass/finish.cuh", "FinishKeys",
                              2 * t.keys * (depth + width));
  }
  if (p.dtype == float16) {
    plan.values = kernel("fa_backward_values", "pass/ranges.cuh", "MeasureValues");
  }
  if (p.dbias) {
    plan.bias = kernel("fa_backward_bias", "pass/bias.cuh", "FinishBias");
    plan.bias_first = !rows_share_bias(p) && !blocks_share_bias(p);
  }
  if (p.dsinks) {
    plan.sinks = kernel("fa_backward_sinks", "pass/sinks.cuh", "SinkGradients", 4 * 32 * t.warps);
  }
  // Every row sees all keys of every block: then the main kernel need not look.
  // mutant "CUDA plan: all keys are seen" of cuda_backward_plan_test: p.window_right < 0 => true
  constants.flag("all_seen", p.window_left < 0 && p.window_right < 0 && !p.packed_k && !p.used_k &&
                                 p.seqlen_k % t.keys == 0);
  plan.backward =
      kernel_spec({"fa_sm80_backward",
                   {"sm80/backward.cuh"},
                   "fa::sm80::BackwardConfig",
                   "fa::sm80::Backward<Config>"},
                  constants, 32 * t.warps, t.min_blocks, shared_bytes(t, p.head_dim, p.head_dim_v));
}

}  // namespace

CudaBackwardPlan plan_cuda_backward(const Problem& p, const GpuLimits& gpu,
                                    const BackwardTuning& tuning) {
  need_offered(p);
  CudaBackwardPlan plan;
  plan.problem = p;
  plan.gpu = gpu;
  plan.tile = tuning.tile ? *tuning.tile : backward_tile(p, gpu);
  cut(plan);
  share_keys(plan, tuning.parts ? *tuning.parts : choose_parts(plan));
  plan.section = choose_section(plan);
  if (p.dbias) {
    const int64_t rows = (p.bias_per_batch ? p.batch : 1) * (p.bias_per_head ? p.heads_q : 1) *
                         (p.bias_per_row ? p.seqlen_q : 1);
    plan.bias_rows = checked_blocks("bias", rows, 1);
  }
  size_workspace(plan);
  choose_kernels(plan);
  return plan;
}

std::string to_text(const CudaBackwardPlan& plan) {
  const BackwardTile& t = plan.tile;
  const BackwardWorkspace& bytes = plan.workspace;
  return heading(plan.problem, plan.gpu) +
         fmt::format(
             "kernel: {} ({} threads, {} bytes of shared memory, {} blocks of a multiprocessor)\n"
             "tile: {} keys, {} rows a step, {} steps in shared memory, {} warps\n"
             "grid: {} blocks for keys, each with {} query heads, sections of {}; {} blocks "
             "for rows before and after\n"
             "workspace: {} bytes ({} for dq in float32, {} each for lse and delta, {} for dk "
             "and dv, {} for dbias, {} to keep the order, {} for ranges)\n",
             plan.backward.entry, plan.backward.threads, plan.backward.shared_bytes, t.min_blocks,
             t.keys, t.rows, t.stages, t.warps, plan.key_blocks * plan.parts, plan.part_heads,
             plan.section, plan.row_blocks, bytes.all(), bytes.dq_sum, bytes.lse,
             bytes.dk_sum + bytes.dv_sum, bytes.dbias_sum, bytes.dq_turns + bytes.key_turns,
             bytes.ranges);
}

}  // namespace fa
