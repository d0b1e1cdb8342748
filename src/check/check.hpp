// Random problems through the public API, each compared with the float64 reference.
//
// The verdict on a tensor x (docs/numerics.md, "Error"):
//   ||x - exact|| <= 2 ||plain - exact|| + 4 eps ||the same sums over absolute values||
// where plain is the formula with every step rounded to the dtype; and each number of it within
// twice that bound of its own, so that no wrong row hides in a large tensor. A NaN fails.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "check/accelerator.hpp"
#include "check/offer.hpp"
#include "check/place.hpp"
#include "check/spec.hpp"
#include "check/verdict.hpp"

namespace fa::check {

struct CheckConfig {
  int64_t count = 1000;
  uint64_t seed = 1;
  int64_t first = 0;  ///< index of the first problem: (seed, index) is the whole of a problem
  int threads = 0;    ///< problems at a time; 0 is one for each core
  /// The device that runs the problems, null for the host, and what is asked of it (problems.hpp).
  Accelerator* accelerator = nullptr;
  const Offer* offer = &cpu_offer;
  int64_t configurations = 0;  ///< 0: each problem has its own
  Allocation allocation = Allocation::arena;
  /// The run ends with so many wrong problems: after an illegal access every further call to a
  /// device fails.
  int64_t most_failures = 25;
  /// Called with the number of problems done so far, by one thread at a time.
  std::function<void(int64_t done)> progress;
};

/// One problem that went wrong.
struct Failure {
  int64_t index = 0;
  std::string problem;  ///< its options and shapes
  std::string what;     ///< what was wrong, one finding a line
};

struct Report {
  int64_t problems = 0;
  double worst_ratio = 0;  ///< the largest error / bound; right is at most 1
  int64_t worst_index = -1;
  std::string worst_problem;
  std::string worst_tensor;
  std::vector<Failure> failures;    ///< by index
  std::vector<std::string> missed;  ///< allowed pairs of options that never met (full runs only)
  std::vector<std::string> wrongly_accepted;  ///< pairs that must be refused and were not
  std::string pair_table;                     ///< how often each pair of options met
  /// A hash of the bits of all outputs. Two builds that compute the same have the same hash, on a
  /// device only where its sums have an order. The order of the problems does not matter.
  uint64_t output_hash = 0;
  std::string extras;  ///< how often the further checks ran (threads, one at a time, plans)
  std::vector<std::string> never_asked;  ///< allowed pairs that the configurations leave out
  double prepare_seconds = 0;            ///< for all configurations' plans
  double seconds = 0;                    ///< for all problems

  bool passed() const { return failures.empty() && missed.empty() && wrongly_accepted.empty(); }
};

/// A run of at least this many problems must meet every allowed pair of options.
inline constexpr int64_t full_run = 2000;

Report run(const CheckConfig& config);

/// One problem of the caller's, as `run` judges each of its own.
Verdict judge(const Spec& spec, Place& place);

/// A problem in words: shapes, options, layouts.
std::string describe(const CheckConfig& config, int64_t index);

}  // namespace fa::check
