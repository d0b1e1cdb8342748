// The passes on a CUDA device: a planned problem with its kernels, and the launch of a call.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "cuda/device.hpp"
#include "cuda/kernel_store.hpp"
#include "plan/cuda_plan.hpp"
#include "problem/problem.hpp"

namespace fa::cuda {

/// A plan and the kernels it needs, loaded when first run or by prepare(). Many threads may run it.
class Planned {
 public:
  Planned(CudaPlan plan, int device) : plan_(std::move(plan)), device_(device) {}

  const CudaPlan& plan() const { return plan_; }
  int device() const { return device_; }
  /// Compiles and loads what is missing.
  void prepare() const;
  /// Launches a validated call of the planned problem. The workspace has plan().workspace_bytes of
  /// device memory. Allocates nothing, waits for nothing.
  void run(const Call& call, void* workspace, void* stream) const;
  /// The same with a workspace of the device's pool.
  void run(const Call& call, void* stream) const;

 private:
  void launch_all(const Call& call, void* workspace, void* stream) const;
  const LoadedKernel& kernel(std::atomic<const LoadedKernel*>& slot, const KernelSpec& spec) const;

  CudaPlan plan_;
  int device_;
  mutable std::atomic<const LoadedKernel*> forward_{nullptr}, combine_{nullptr};
};

/// Plans for a device of this machine.
std::shared_ptr<const Planned> plan(const Problem& problem, const CudaTuning& tuning = {});
GpuLimits limits_of(const DeviceInfo& info);
/// The same, kept for the next call of the same problem.
std::shared_ptr<const Planned> plan_once(const Problem& problem);

void merge(const MergeCall& call, int device, void* stream);

}  // namespace fa::cuda
