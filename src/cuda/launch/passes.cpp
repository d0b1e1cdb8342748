#include "cuda/launch/passes.hpp"

#include "cuda/launch/launch.hpp"
#include "cuda/runtime/memory_pool.hpp"

namespace fa::cuda {

const LoadedKernel& Planned::kernel(size_t index) const {
  const LoadedKernel* loaded = loaded_[index].load(std::memory_order_acquire);
  if (loaded == nullptr) {
    loaded = &load(cuda_plan().launches[index].kernel, device_);
    loaded_[index].store(loaded, std::memory_order_release);
  }
  return *loaded;
}

void Planned::prepare() const {
  if (cuda_plan().empty()) return;
  for (size_t index = 0; index < loaded_.size(); ++index) kernel(index);
}

void Planned::run(const Call& call, void* workspace, void* stream) const {
  if (cuda_plan().empty()) return;
  const CurrentContext context(device_, stream);
  prepare();  // all kernels, before the first is launched
  launch_all(call, workspace, stream);
}

void Planned::run(const Call& call, void* stream) const {
  if (cuda_plan().empty()) return;
  const CurrentContext context(device_, stream);
  const DeviceWorkspace workspace(device_, workspace_bytes(), stream);
  prepare();
  launch_all(call, workspace.data(), stream);
}

void Planned::launch(size_t index, const void* params, void* stream) const {
  const Launch& planned = cuda_plan().launches[index];
  if (planned.grid.empty()) return;
  cuda::launch(kernel(index), planned.kernel, planned.grid, params, stream, planned.dependent);
}

GpuLimits limits_of(const DeviceInfo& info) {
  return {info.arch(),        info.sm_count,       info.shared_per_block,
          info.shared_per_sm, info.threads_per_sm, info.blocks_per_sm};
}

std::shared_ptr<const PlannedForward> plan_forward(const Problem& problem,
                                                   const ForwardTuning& tuning) {
  const int id = problem.device.id;
  return std::make_shared<const PlannedForward>(
      plan_cuda_forward(problem, limits_of(device(id)), tuning), id);
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
  const unsigned blocks = blocks_that_join(rows);
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
  launch(load(spec, device_id), spec, {blocks}, &params, stream);
}

}  // namespace fa::cuda
