// The passes on a CUDA device: a planned problem with its kernels, and the launch of a call.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"
#include "problem/problem.hpp"

namespace fa::kernel {
struct BackwardParams;
}

namespace fa::cuda {

/// A plan and its kernels, loaded when first run or by prepare(). Many threads may run it.
class Planned {
 public:
  Planned(const Planned&) = delete;
  Planned& operator=(const Planned&) = delete;
  virtual ~Planned() = default;

  const Problem& problem() const { return cuda_plan().problem; }
  size_t workspace_bytes() const { return cuda_plan().workspace_bytes; }
  virtual std::string text() const = 0;
  /// Compiles and loads what is missing.
  void prepare() const;
  /// Launches a validated call of the planned problem. The workspace has workspace_bytes() of
  /// device memory. Allocates nothing, waits for nothing.
  void run(const Call& call, void* workspace, void* stream) const;
  /// Launches the call with a workspace from the device's pool.
  void run(const Call& call, void* stream) const;

 protected:
  Planned(int device, size_t launches) : device_(device), loaded_(launches) {}
  virtual const CudaPlan& cuda_plan() const = 0;
  /// All launches in their order, each by launch().
  virtual void launch_all(const Call& call, void* workspace, void* stream) const = 0;
  /// Launch number `index` of the plan, where it has blocks.
  void launch(size_t index, const void* params, void* stream) const;

 private:
  const LoadedKernel& kernel(size_t index) const;

  int device_;
  mutable std::vector<std::atomic<const LoadedKernel*>> loaded_;  ///< of each launch
};

class PlannedForward : public Planned {
 public:
  PlannedForward(CudaForwardPlan plan, int device)
      : Planned(device, plan.launches.size()), plan_(std::move(plan)) {}

  const CudaForwardPlan& plan() const { return plan_; }
  std::string text() const override { return to_text(plan_); }

 protected:
  const CudaPlan& cuda_plan() const override { return plan_; }
  void launch_all(const Call& call, void* workspace, void* stream) const override;

 private:
  CudaForwardPlan plan_;
};

class PlannedBackward : public Planned {
 public:
  PlannedBackward(CudaBackwardPlan plan, int device)
      : Planned(device, plan.launches.size()), plan_(std::move(plan)) {}

  const CudaBackwardPlan& plan() const { return plan_; }
  std::string text() const override { return to_text(plan_); }

 protected:
  const CudaPlan& cuda_plan() const override { return plan_; }
  void launch_all(const Call& call, void* workspace, void* stream) const override;

 private:
  void launch_main(size_t index, const Call& call, kernel::BackwardParams params,
                   void* stream) const;

  CudaBackwardPlan plan_;
};

/// Plans for a device of this machine.
std::shared_ptr<const Planned> plan(const Problem& problem);
std::shared_ptr<const PlannedForward> plan_forward(const Problem& problem,
                                                   const ForwardTuning& tuning = {});
std::shared_ptr<const PlannedBackward> plan_backward(const Problem& problem,
                                                     const BackwardTuning& tuning = {});
GpuLimits limits_of(const DeviceInfo& info);
/// The same, kept for the next call of the same problem.
std::shared_ptr<const Planned> plan_once(const Problem& problem);

void merge(const MergeCall& call, int device, void* stream);

}  // namespace fa::cuda
