// Compares the results of a call with the float64 reference: all of them, or a sample of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "fa/attention.hpp"
#include "verify/verdict.hpp"

namespace fa::cli {

/// A finished call: args.out and args.lse (which may be left out) and, where given, the gradients.
/// Every tensor is contiguous.
struct Finished {
  const BackwardArgs& args;
  const Options& options;
};

/// Multiply-adds of the reference, for a guess at its time: some 3e8 to 1e9 a second.
double reference_work(const Finished& call);

/// Every element. The time is quadratic in the sequence.
std::vector<Verdict> verify_all(const Finished& call);

struct Sample {
  int64_t rows = 64;      ///< of out, lse and dq
  int64_t key_heads = 1;  ///< of dk and dv
  int64_t keys = 16;      ///< of each of these heads
  uint64_t seed = 1;
};

/// Random rows of random heads and sequences; dbias and dsinks, sums over whole heads, are left
/// out.
std::vector<Verdict> verify_sample(const Finished& call, const Sample& sample);

}  // namespace fa::cli
