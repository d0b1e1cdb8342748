#include "plan/cuda_backward_plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "plan/cuda_common.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

void need_backward(const Problem& p) {
  need_offered(p);
  if (p.dbias) {
    fail(Status::unsupported, "dbias", "is asked of a CUDA device, where it is not offered yet");
  }
}

/// Whether dQ is summed in an order of its own: a sequence's bits depend on it, too.
bool in_order(const Problem& p) { return p.deterministic || p.batch_invariant; }

std::string config(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardTile& t = plan.tile;
  const int depth = padded_columns(t, p.head_dim), width = padded_columns(t, p.head_dim_v);
  KernelConfig constants;
  return add_problem(constants, p)
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
      .number("min_blocks", t.min_blocks)
      .number("shared_bytes", shared_bytes(t, p.head_dim, p.head_dim_v))
      .flag("deterministic", in_order(p))
      .text();
}

}  // namespace

CudaBackwardPlan plan_cuda_backward(const Problem& p, const GpuLimits& gpu,
                                    const std::optional<BackwardTile>& tile) {
  need_backward(p);
  CudaBackwardPlan plan;
  plan.problem = p;
  plan.gpu = gpu;
  plan.tile = tile ? *tile : backward_tile(p, gpu);
  const BackwardTile& t = plan.tile;
  const int64_t key_tiles = tiles_of_head(p.packed_k, p.seqlen_k, p.tokens_k, p.batch, t.keys);
  const int64_t row_tiles = tiles_of_head(p.packed_q, p.seqlen_q, p.tokens_q, p.batch, t.rows);
  plan.blocks = checked_blocks("k", key_tiles * p.heads_k * (p.packed_k ? 1 : p.batch), t.keys);
  plan.row_blocks = checked_blocks("q", row_tiles * p.heads_q * (p.packed_q ? 1 : p.batch), t.rows);
  plan.key_tiles = static_cast<int>(key_tiles);
  plan.row_tiles = static_cast<int>(row_tiles);
  if (p.window_right >= 0 && !p.packed_k) {
    const int64_t bytes = p.seqlen_q * p.group() * (p.head_dim + p.head_dim_v) * 2;
    plan.section = static_cast<int>(groups_in_section(p.batch * p.heads_k, bytes));
  }
  plan.padded_rows = p.packed_q ? round_up(p.tokens_q, t.rows) + (p.batch + 1) * t.rows
                                : p.batch * round_up(p.seqlen_q, t.rows);
  plan.statistics_bytes = p.heads_q * plan.padded_rows * 4;
  plan.dq_sum_bytes = plan.statistics_bytes * padded_columns(t, p.head_dim);
  plan.turns_bytes = in_order(p) ? plan.statistics_bytes / t.rows : 0;
  plan.ranges_bytes = p.dtype == float16 ? 4 * p.batch * (2 * p.heads_q + p.heads_k) : 0;
  plan.workspace_bytes =
      plan.dq_sum_bytes + 2 * plan.statistics_bytes + plan.turns_bytes + plan.ranges_bytes;
  const std::string constants = config(plan);
  const int threads = 32 * t.warps;
  plan.prepare = {"sm80/backward_prepare.cuh", "fa_sm80_backward_prepare", constants, threads, 0};
  plan.backward = {"sm80/backward.cuh", "fa_sm80_backward", constants, threads,
                   shared_bytes(t, p.head_dim, p.head_dim_v)};
  plan.finish = {"sm80/backward_finish.cuh", "fa_sm80_backward_finish", constants, threads,
                 2 * t.rows * padded_columns(t, p.head_dim)};
  if (p.dtype == float16) {
    plan.values = {"sm80/backward_values.cuh", "fa_sm80_backward_values", constants, threads, 0};
  }
  if (p.dsinks) {
    KernelConfig formats;
    const std::string also =
        formats.format("sinks", true, p.sinks_dtype).format("dsinks", true, p.dsinks_dtype).text();
    plan.sinks = {"sm80/backward_sinks.cuh", "fa_sm80_backward_sinks", constants + also, threads,
                  4 * threads};
  }
  return plan;
}

std::string to_text(const CudaBackwardPlan& plan) {
  const BackwardTile& t = plan.tile;
  return heading(plan.problem, plan.gpu) +
         fmt::format(
             "kernel: {} ({} threads, {} bytes of shared memory, {} blocks of a multiprocessor)\n"
             "tile: {} keys, {} rows a step, {} steps in shared memory, {} warps\n"
             "grid: {} blocks, sections of {} key heads; {} blocks before and after\n"
             "workspace: {} bytes ({} for dq in float32, {} each for lse and delta, {} to keep "
             "the order, {} for ranges)\n",
             plan.backward.entry, plan.backward.threads, plan.backward.shared_bytes, t.min_blocks,
             t.keys, t.rows, t.stages, t.warps, plan.blocks, plan.section, plan.row_blocks,
             plan.workspace_bytes, plan.dq_sum_bytes, plan.statistics_bytes, plan.turns_bytes,
             plan.ranges_bytes);
}

}  // namespace fa
