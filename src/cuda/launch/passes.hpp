// The passes on a CUDA device: a planned problem with its kernels, and the launch of a call.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"
#include "problem/problem.hpp"

namespace fa::kernel {
struct BackwardParams;
}

namespace fa::cuda {

/// A kernel of a plan, loaded when first asked for.
class PlannedKernel {
 public:
  const LoadedKernel& get(const KernelSpec& spec, int device) const;

 private:
  mutable std::atomic<const LoadedKernel*> loaded_{nullptr};
};

/// A plan and the kernels it needs, loaded when first run or by prepare(). Many threads may run it.
class Planned {
 public:
  explicit Planned(int device) : device_(device) {}
  Planned(const Planned&) = delete;
  Planned& operator=(const Planned&) = delete;
  virtual ~Planned() = default;

  virtual const Problem& problem() const = 0;
  virtual size_t workspace_bytes() const = 0;
  virtual std::string text() const = 0;
  /// Compiles and loads what is missing.
  virtual void prepare() const = 0;
  /// Launches a validated call of the planned problem. The workspace has workspace_bytes() of
  /// device memory. Allocates nothing, waits for nothing.
  void run(const Call& call, void* workspace, void* stream) const;
  /// The same with a workspace of the device's pool.
  void run(const Call& call, void* stream) const;

 protected:
  int device() const { return device_; }
  virtual bool empty() const = 0;  ///< nothing to write
  virtual void launch_all(const Call& call, void* workspace, void* stream) const = 0;

 private:
  int device_;
};

class PlannedForward : public Planned {
 public:
  PlannedForward(CudaPlan plan, int device) : Planned(device), plan_(std::move(plan)) {}

  const CudaPlan& plan() const { return plan_; }
  const Problem& problem() const override { return plan_.problem; }
  size_t workspace_bytes() const override { return plan_.workspace_bytes; }
  std::string text() const override { return to_text(plan_); }
  void prepare() const override;

 protected:
  bool empty() const override { return plan_.blocks == 0; }
  void launch_all(const Call& call, void* workspace, void* stream) const override;

 private:
  CudaPlan plan_;
  PlannedKernel forward_, combine_;
};

class PlannedBackward : public Planned {
 public:
  PlannedBackward(CudaBackwardPlan plan, int device) : Planned(device), plan_(std::move(plan)) {}

  const CudaBackwardPlan& plan() const { return plan_; }
  const Problem& problem() const override { return plan_.problem; }
  size_t workspace_bytes() const override { return static_cast<size_t>(plan_.workspace.all()); }
  std::string text() const override { return to_text(plan_); }
  void prepare() const override;

 protected:
  bool empty() const override {
    return plan_.key_blocks == 0 && plan_.row_blocks == 0 && !plan_.sinks && !plan_.bias;
  }
  void launch_all(const Call& call, void* workspace, void* stream) const override;

 private:
  void launch_main(kernel::BackwardParams params, void* stream) const;

  CudaBackwardPlan plan_;
  PlannedKernel values_, prepare_, backward_, finish_, finish_keys_, bias_, sinks_;
};

/// Plans for a device of this machine.
std::shared_ptr<const Planned> plan(const Problem& problem);
std::shared_ptr<const PlannedForward> plan_forward(const Problem& problem,
                                                   const CudaTuning& tuning = {});
std::shared_ptr<const PlannedBackward> plan_backward(const Problem& problem,
                                                     const BackwardTuning& tuning = {});
GpuLimits limits_of(const DeviceInfo& info);
/// The same, kept for the next call of the same problem.
std::shared_ptr<const Planned> plan_once(const Problem& problem);

void merge(const MergeCall& call, int device, void* stream);

}  // namespace fa::cuda
