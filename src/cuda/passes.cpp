#include "cuda/passes.hpp"

#include <array>
#include <cmath>
#include <numbers>

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

/// Everything of a forward launch but the tile order, from the call.
kernel::ForwardParams forward_params(const CudaPlan& plan, const Call& call, void* workspace) {
  const Problem& p = plan.problem;
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
  params.row_tiles = kernel::Divisor(plan.row_tiles);
  params.section = kernel::Divisor(plan.section);
  params.section_tiles = kernel::Divisor(plan.section * plan.row_tiles);
  params.split_keys = plan.split_keys;
  params.scale = static_cast<float>(p.softcap > 0 ? p.scale / p.softcap : p.scale * log2_e);
  params.softcap = static_cast<float>(p.softcap * log2_e);
  params.keep_scale = static_cast<float>(1 / (1 - p.dropout_p));
  params.threshold = philox::threshold(p.dropout_p);
  params.window_left = p.window_left;
  params.window_right = p.window_right;
  params.seed = call.dropout_seed;
  params.offset = call.dropout_offset;
  params.dropout_state = reinterpret_cast<const long long*>(call.dropout_state);
  params.partial_rows = plan.partial_rows;
  params.partial_out = static_cast<float*>(workspace);
  params.partial_lse = params.partial_out + plan.splits * plan.partial_rows * p.head_dim_v;
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

const LoadedKernel& Planned::kernel(std::atomic<const LoadedKernel*>& slot,
                                    const KernelSpec& spec) const {
  const LoadedKernel* loaded = slot.load(std::memory_order_acquire);
  if (loaded == nullptr) {
    loaded = &load(spec, device_);
    slot.store(loaded, std::memory_order_release);
  }
  return *loaded;
}

void Planned::prepare() const {
  if (plan_.blocks == 0) return;
  kernel(forward_, plan_.forward);
  if (plan_.combine) kernel(combine_, *plan_.combine);
}

void Planned::launch_all(const Call& call, void* workspace, void* stream) const {
  prepare();  // both kernels, before the first is launched
  kernel::ForwardParams params = forward_params(plan_, call, workspace);
  const Grid grid{static_cast<unsigned>(plan_.blocks), static_cast<unsigned>(plan_.splits),
                  static_cast<unsigned>(plan_.tile.value_slices)};
  launch(kernel(forward_, plan_.forward), plan_.forward, grid, params, stream);
  if (!plan_.combine) return;
  const Problem& p = plan_.problem;
  kernel::CombineParams joined{params.partial_out,   params.partial_lse,
                               plan_.partial_rows,   plan_.splits,
                               params.out,           params.lse,
                               params.sinks,         p.packed_q ? 1 : params.batch,
                               params.heads_q.value, p.packed_q ? p.tokens_q : p.seqlen_q};
  launch(kernel(combine_, *plan_.combine), *plan_.combine, {blocks_of(plan_.partial_rows)}, joined,
         stream);
}

void Planned::run(const Call& call, void* workspace, void* stream) const {
  if (plan_.blocks == 0) return;  // nothing to write
  const CurrentContext context(device_, stream);
  launch_all(call, workspace, stream);
}

void Planned::run(const Call& call, void* stream) const {
  if (plan_.blocks == 0) return;
  const CurrentContext context(device_, stream);
  const DeviceWorkspace workspace(device_, plan_.workspace_bytes, stream);
  launch_all(call, workspace.data(), stream);
}

GpuLimits limits_of(const DeviceInfo& info) {
  return {info.arch(),        info.sm_count,       info.shared_per_block,
          info.shared_per_sm, info.threads_per_sm, info.blocks_per_sm};
}

std::shared_ptr<const Planned> plan(const Problem& problem, const CudaTuning& tuning) {
  const int id = problem.device.id;
  return std::make_shared<const Planned>(plan_cuda(problem, limits_of(device(id)), tuning), id);
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
