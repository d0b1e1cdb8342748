// The formulas of docs/numerics.md in plain loops: what every backend is tested against.
// Written on its own: shares no masks, generators or loops with the library.
#pragma once

#include <cstdint>
#include <vector>

#include "fa/attention.hpp"

namespace fa::reference {

/// How each step of the formula is rounded.
enum class Rounding : uint8_t {
  exact,  ///< float64 throughout
  plain   ///< sums in float32, every intermediate tensor rounded to q's dtype: the usual formula
};

/// Results in float64, contiguous, in the shapes of include/fa/attention.hpp (packed or not).
/// `*_abs` are the same sums over absolute values, scores included: the scale of the rounding error
/// to expect. Rounding::plain leaves them empty.
struct Result {
  std::vector<double> out, out_abs, lse, lse_abs;
  std::vector<double> dq, dk, dv, dbias, dsinks;
  std::vector<double> dq_abs, dk_abs, dv_abs, dbias_abs, dsinks_abs;
};

Result forward(const ForwardArgs& args, const Options& options, Rounding rounding);

/// Computes the forward pass itself, in the same rounding, and returns its results too; does not
/// read args.out or args.lse. Fills dbias and dsinks where their tensors are given.
Result backward(const BackwardArgs& args, const Options& options, Rounding rounding);

// Spot checks of problems too large for the whole. `batch` numbers the sequence, `row` and `keys`
// count within it; what lies beyond the sequence's used length gives zeros (LSE -inf).

/// Some numbers of a result; `abs` as in Result.
struct Part {
  std::vector<double> values, abs;
};

/// One row's output (Dv numbers) and LSE (one).
struct Row {
  Part out, lse;
};
Row forward_row(const ForwardArgs& args, const Options& options, int64_t batch, int64_t head,
                int64_t row, Rounding rounding);

/// One row of dq (D numbers).
Part dq_row(const BackwardArgs& args, const Options& options, int64_t batch, int64_t head,
            int64_t row, Rounding rounding);

/// dk (D numbers) and dv (Dv numbers) of some keys of one key head. A key's gradient needs LSE and
/// delta of every row of the head's group, O(group * Sq * Sk * D) operations whether one key is
/// asked for or many: ask for all of a head at once.
struct KeyRow {
  Part dk, dv;
};
std::vector<KeyRow> dkv_rows(const BackwardArgs& args, const Options& options, int64_t batch,
                             int64_t head_k, const std::vector<int64_t>& keys, Rounding rounding);

/// The keep decision of dropout for one element (section "Dropout" of docs/numerics.md).
bool keeps(double p, uint64_t seed, uint64_t offset, int64_t sequence, int64_t head,
           int64_t heads_q, int64_t i, int64_t j);

}  // namespace fa::reference
