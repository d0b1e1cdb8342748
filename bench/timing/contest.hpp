// One problem of a CUDA device run in several ways: all held against the first, then timed.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "cuda/launch/passes.hpp"
#include "plan/cuda/forward.hpp"
#include "problem/problem.hpp"
#include "timing/tensors.hpp"

namespace fa::bench {

/// Milliseconds of the device for one call of each way, round by round in shuffled order.
std::vector<std::vector<double>> time_in_turns(const Tensors& tensors, size_t ways,
                                               const std::function<void(size_t way)>& run,
                                               int rounds, std::mt19937_64& random);
double median_of(std::vector<double> numbers);

/// The results of one way.
struct Measured {
  double out_difference = 0;  ///< relative, from the first
  double lse_difference = 0;
  std::vector<double> milliseconds;  ///< of the device for one call, each round

  bool right() const;
  double median() const { return median_of(milliseconds); }
};

class Contest {
 public:
  /// The call's tensors are those of `tensors`.
  Contest(const Call& call, const Tensors& tensors, std::span<const ForwardTuning> ways);

  const CudaForwardPlan& plan(size_t way) const { return plans_[way]->plan(); }
  const std::vector<Measured>& measured() const { return measured_; }
  /// For the kernels of several contests to be compiled at once.
  std::vector<KernelSpec> kernels() const;
  void check();
  /// Those that are right, in shuffled order each round.
  void time(int rounds, std::mt19937_64& random);

 private:
  void run(size_t way) const { plans_[way]->run(call_, tensors_.stream()); }

  Call call_;
  const Tensors& tensors_;
  std::vector<std::shared_ptr<const cuda::PlannedForward>> plans_;
  std::vector<Measured> measured_;
};

}  // namespace fa::bench
