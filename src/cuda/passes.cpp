#include "cuda/passes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <type_traits>

#include "cuda/memory_pool.hpp"
#include "kernels/common/params.h"
#include "kernels/common/philox.h"
#include "problem/argument.hpp"

namespace fa::cuda {

namespace {

constexpr unsigned rows_of_block = 4;  // of combine and merge: a warp each

kernel::View view(const Rows& rows) { return {rows.data, rows.batch, rows.row, rows.head}; }

kernel::Lengths lengths(const int32_t* cu_seqlens, const int32_t* seqused, int64_t seqlen,
                        int64_t tokens) {
  return {cu_seqlens, seqused, static_cast<int>(seqlen), tokens};
}

void set_order(kernel::ForwardParams& params, int tiles, int section) {
  tiles = std::max(tiles, 1);  // of a side without rows no block asks
  params.row_tiles = kernel::Divisor(tiles);
  params.section = kernel::Divisor(section);
  params.section_tiles = kernel::Divisor(section * tiles);
}

/// What both passes take from the call, and the order of their tiles.
kernel::ForwardParams common_params(const Problem& p, const Call& call, int tiles, int section) {
  const double log2_e = std::numbers::log2e;
  kernel::ForwardParams params{};
  params.q = view(call.q);
  params.k = view(call.k);
  params.v = view(call.v);
  params.out = view(call.out);
  params.lse = view(call.lse);
  params.bias = view(call.bias);
  params.alibi = view(call.alibi);
  params.sinks = view(call.sinks);
  params.rows = lengths(call.cu_seqlens_q, call.seqused_q, p.seqlen_q, p.tokens_q);
  params.keys = lengths(call.cu_seqlens_k, call.seqused_k, p.seqlen_k, p.tokens_k);
  params.batch = static_cast<int>(p.batch);
  params.heads_q = kernel::Divisor(static_cast<int>(p.heads_q));
  params.group = kernel::Divisor(static_cast<int>(p.group()));
  set_order(params, tiles, section);
  params.scale = static_cast<float>(p.softcap > 0 ? p.scale / p.softcap : p.scale * log2_e);
  params.softcap = static_cast<float>(p.softcap * log2_e);
  params.keep_scale = static_cast<float>(1 / (1 - p.dropout_p));
  params.threshold = philox::threshold(p.dropout_p);
  params.window_left = p.window_left;
  params.window_right = p.window_right;
  params.seed = call.dropout_seed;
  params.offset = call.dropout_offset;
  params.dropout_state = reinterpret_cast<const long long*>(call.dropout_state);
  return params;
}

kernel::ForwardParams forward_params(const CudaPlan& plan, const Call& call, void* workspace) {
  const Problem& p = plan.problem;
  kernel::ForwardParams params = common_params(p, call, plan.row_tiles, plan.section);
  params.split_keys = plan.split_keys;
  params.partial_rows = plan.partial_rows;
  params.partial_out = static_cast<float*>(workspace);
  params.partial_lse = params.partial_out + plan.splits * plan.partial_rows * p.head_dim_v;
  return params;
}

kernel::Walk walk(const Rows& rows, const CudaBackwardPlan& plan) {
  const int64_t tile = 2 * rows.row * plan.tile.rows, head = 2 * rows.head;
  return {head - tile, -(plan.part_heads - 1) * head};
}

/// Of the kernels whose tiles are those of keys.
kernel::BackwardParams backward_params(const CudaBackwardPlan& plan, const Call& call,
                                       void* workspace) {
  const Problem& p = plan.problem;
  kernel::BackwardParams params{};
  params.forward = common_params(p, call, plan.key_tiles, 1);
  params.order_heads = kernel::Divisor(static_cast<int>(p.heads_k));
  params.dout = view(call.dout);
  params.dlse = view(call.dlse);
  params.dq = view(call.dq);
  params.dk = view(call.dk);
  params.dv = view(call.dv);
  params.dsinks = view(call.dsinks);
  params.dbias = view(call.dbias);
  params.parts = kernel::Divisor(plan.parts);
  params.part_heads = plan.part_heads;
  params.q_walk = walk(call.q, plan);
  params.dout_walk = walk(call.dout, plan);
  params.gradient_scale = static_cast<float>(p.scale);
  params.padded_rows = plan.padded_rows;
  params.padded_keys = plan.padded_keys;
  params.bias_batches = p.bias_per_batch ? static_cast<int>(p.batch) : 1;
  params.bias_heads = p.bias_per_head ? static_cast<int>(p.heads_q) : 1;
  params.bias_rows = p.bias_per_row ? static_cast<int>(p.seqlen_q) : 1;
  const BackwardWorkspace& bytes = plan.workspace;
  auto* next = static_cast<char*>(workspace);
  const auto take = [&next](auto*& pointer, int64_t size) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
    next += size;
  };
  take(params.dq_sum, bytes.dq_sum);
  take(params.lse_2, bytes.lse);
  take(params.delta, bytes.delta);
  take(params.dk_sum, bytes.dk_sum);
  take(params.dv_sum, bytes.dv_sum);
  take(params.dbias_sum, bytes.dbias_sum);
  take(params.dq_turns, bytes.dq_turns);
  take(params.key_turns, bytes.key_turns);
  take(params.ranges, bytes.ranges);
  return params;
}

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

template <typename Params>
void launch(const LoadedKernel& kernel, const KernelSpec& spec, Grid grid, Params& params,
            void* stream) {
  void* arguments[] = {&params};
  check(
      driver().launch(kernel.function, grid.x, grid.y, grid.z, static_cast<unsigned>(spec.threads),
                      1, 1, static_cast<unsigned>(spec.shared_bytes), static_cast<CUstream>(stream),
                      arguments, nullptr),
      spec.entry.c_str());
}

unsigned blocks_of(int64_t rows) {
  const int64_t blocks = (rows + rows_of_block - 1) / rows_of_block;
  if (blocks > INT32_MAX) {
    fail(Status::unsupported, "out", "has {} rows; CUDA devices join up to {}", rows,
         int64_t{INT32_MAX} * rows_of_block);
  }
  return static_cast<unsigned>(blocks);
}

}  // namespace

const LoadedKernel& PlannedKernel::get(const KernelSpec& spec, int device) const {
  const LoadedKernel* loaded = loaded_.load(std::memory_order_acquire);
  if (loaded == nullptr) {
    loaded = &load(spec, device);
    loaded_.store(loaded, std::memory_order_release);
  }
  return *loaded;
}

void Planned::run(const Call& call, void* workspace, void* stream) const {
  if (empty()) return;
  const CurrentContext context(device_, stream);
  launch_all(call, workspace, stream);
}

void Planned::run(const Call& call, void* stream) const {
  if (empty()) return;
  const CurrentContext context(device_, stream);
  const DeviceWorkspace workspace(device_, workspace_bytes(), stream);
  launch_all(call, workspace.data(), stream);
}

void PlannedForward::prepare() const {
  if (empty()) return;
  forward_.get(plan_.forward, device());
  if (plan_.combine) combine_.get(*plan_.combine, device());
}

void PlannedForward::launch_all(const Call& call, void* workspace, void* stream) const {
  prepare();  // both kernels, before the first is launched
  kernel::ForwardParams params = forward_params(plan_, call, workspace);
  const Grid grid{static_cast<unsigned>(plan_.blocks), static_cast<unsigned>(plan_.splits),
                  static_cast<unsigned>(plan_.tile.value_slices)};
  launch(forward_.get(plan_.forward, device()), plan_.forward, grid, params, stream);
  if (!plan_.combine) return;
  const Problem& p = plan_.problem;
  kernel::CombineParams joined{params.partial_out,   params.partial_lse,
                               plan_.partial_rows,   plan_.splits,
                               params.out,           params.lse,
                               params.sinks,         p.packed_q ? 1 : params.batch,
                               params.heads_q.value, p.packed_q ? p.tokens_q : p.seqlen_q};
  launch(combine_.get(*plan_.combine, device()), *plan_.combine, {blocks_of(plan_.partial_rows)},
         joined, stream);
}

void PlannedBackward::prepare() const {
  if (empty()) return;
  prepare_.get(plan_.prepare, device());
  backward_.get(plan_.backward, device());
  finish_.get(plan_.finish, device());
  if (plan_.values) values_.get(*plan_.values, device());
  if (plan_.finish_keys) finish_keys_.get(*plan_.finish_keys, device());
  if (plan_.bias) bias_.get(*plan_.bias, device());
  if (plan_.sinks) sinks_.get(*plan_.sinks, device());
}

void PlannedBackward::launch_all(const Call& call, void* workspace, void* stream) const {
  prepare();
  const Problem& p = plan_.problem;
  const kernel::BackwardParams keys = backward_params(plan_, call, workspace);
  kernel::BackwardParams rows = keys;
  rows.order_heads = rows.forward.heads_q;
  set_order(rows.forward, plan_.row_tiles, 1);
  const Grid key_grid{static_cast<unsigned>(plan_.key_blocks)};
  const Grid row_grid{static_cast<unsigned>(plan_.row_blocks)};
  const auto run = [&](const PlannedKernel& kernel, const KernelSpec& spec, Grid grid,
                       kernel::BackwardParams params) {
    if (grid.x > 0 && grid.y > 0) launch(kernel.get(spec, device()), spec, grid, params, stream);
  };
  // All of it, also what no row has.
  if (const int64_t zeros = plan_.workspace.zeros(); zeros > 0) {
    check(driver().set_words(reinterpret_cast<CUdeviceptr>(keys.dk_sum), 0,
                             static_cast<size_t>(zeros / 4), static_cast<CUstream>(stream)),
          "setting memory");
  }
  const auto run_bias = [&] {
    constexpr int64_t most = 65535;  // of a grid's second extent
    const int64_t of_row =
        std::min(most, (p.seqlen_k + plan_.bias->threads - 1) / plan_.bias->threads);
    run(bias_, *plan_.bias, {static_cast<unsigned>(plan_.bias_rows), static_cast<unsigned>(of_row)},
        rows);
  };
  if (plan_.bias && plan_.bias_first) run_bias();
  if (plan_.values) run(values_, *plan_.values, key_grid, keys);
  run(prepare_, plan_.prepare, row_grid, rows);
  launch_main(keys, stream);
  run(finish_, plan_.finish, row_grid, rows);
  if (plan_.finish_keys) run(finish_keys_, *plan_.finish_keys, key_grid, keys);
  if (plan_.bias && !plan_.bias_first) run_bias();
  if (plan_.sinks) run(sinks_, *plan_.sinks, {static_cast<unsigned>(p.heads_q)}, rows);
}

void PlannedBackward::launch_main(kernel::BackwardParams params, void* stream) const {
  const Problem& p = plan_.problem;
  const int sequences = plan_.by_sequence ? params.forward.batch : 1;
  const int heads = plan_.by_head ? static_cast<int>(p.heads_k) : 1;
  params.order_heads = kernel::Divisor(heads > 1 ? 1 : params.order_heads.value * plan_.parts);
  set_order(params.forward, plan_.key_tiles, plan_.section);
  const int blocks = plan_.key_blocks / (sequences * heads) * plan_.parts;
  if (blocks == 0) return;
  for (params.first_sequence = 0; params.first_sequence < sequences; ++params.first_sequence) {
    for (params.first_head = 0; params.first_head < heads; ++params.first_head) {
      launch(backward_.get(plan_.backward, device()), plan_.backward,
             {static_cast<unsigned>(blocks)}, params, stream);
    }
  }
}

GpuLimits limits_of(const DeviceInfo& info) {
  return {info.arch(),        info.sm_count,       info.shared_per_block,
          info.shared_per_sm, info.threads_per_sm, info.blocks_per_sm};
}

std::shared_ptr<const PlannedForward> plan_forward(const Problem& problem,
                                                   const CudaTuning& tuning) {
  const int id = problem.device.id;
  return std::make_shared<const PlannedForward>(plan_cuda(problem, limits_of(device(id)), tuning),
                                                id);
}

std::shared_ptr<const PlannedBackward> plan_backward(const Problem& problem,
                                                     const BackwardTuning& tuning) {
  const int id = problem.device.id;
  return std::make_shared<const PlannedBackward>(
      plan_cuda_backward(problem, limits_of(device(id)), tuning), id);
}

std::shared_ptr<const Planned> plan(const Problem& problem) {
  if (problem.pass == Pass::forward) return plan_forward(problem);
  return plan_backward(problem);
}

void merge(const MergeCall& call, int device_id, void* stream) {
  const int64_t rows = call.batch * call.heads * call.seqlen;
  if (rows == 0) return;
  const unsigned blocks = blocks_of(rows);
  device(device_id);  // the error that names it
  const CurrentContext context(device_id, stream);
  const KernelSpec spec = merge_kernel(call.out.dtype);
  kernel::MergeParams params{view(call.out_a),
                             view(call.lse_a),
                             view(call.out_b),
                             view(call.lse_b),
                             view(call.out),
                             view(call.lse),
                             static_cast<int>(call.batch),
                             static_cast<int>(call.heads),
                             call.seqlen,
                             call.head_dim};
  launch(load(spec, device_id), spec, {blocks}, params, stream);
}

}  // namespace fa::cuda
