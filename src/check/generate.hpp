// The tensors of a random problem: contents, memory layouts, and NaN wherever nobody may read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "check/array.hpp"
#include "check/cache_pages.hpp"
#include "check/option_tensors.hpp"
#include "check/place.hpp"
#include "check/spec.hpp"
#include "fa/attention.hpp"

namespace fa::check {

/// An output, its name in a report, and what the reference says of it.
struct Output {
  const char* name;
  const Array* array;
  Exact exact;
};

/// An option's tensor, and its gradient where that is asked for.
struct GivenTensor {
  const OptionTensor* option;
  TensorSpec spec;
  Array array, gradient;
};

/// A problem with its tensors. Inputs hold NaN in the rows and keys beyond every length and
/// between rows; outputs hold NaN.
class Case {
 public:
  explicit Case(const Spec& spec);

  const Spec spec;
  Array q, k, v, out, lse;
  Array dout, dlse, dq, dk, dv;
  std::vector<GivenTensor> tensors;  ///< of options
  IntArray<int32_t> cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k;
  IntArray<int64_t> dropout_state;

  const CachePages& pages() const { return pages_; }
  ForwardArgs forward_args() const;
  BackwardArgs backward_args() const;
  Options options() const;

  /// Those of the forward or the backward pass that are asked for.
  std::vector<Output> outputs(bool backward) const;
  /// Refills the outputs of a pass with NaN.
  void poison(bool backward) const;
  /// Puts NaN into dO of the rows without keys, and into dLSE of those without keys and sink
  /// (`lse` -inf): they pass nothing on.
  void poison_empty_rows(const std::vector<double>& exact_lse) const;
  /// Puts NaN into O and LSE beyond the used rows, which the backward pass must not read.
  void poison_results_beyond() const;
  /// Hash of the memory of all inputs.
  uint64_t input_hash() const;
  /// The memory of all tensors, each piece once.
  MemoryList memory() const;

 private:
  std::vector<bool> keyless_rows() const;
  LayoutKind kind(bool unaligned) const { return {spec.strided, unaligned, spec.alignment}; }
  std::vector<int64_t> shape(const SideSpec& side, int64_t heads, int64_t width) const;
  std::vector<int64_t> key_shape(int64_t width) const;
  std::vector<int64_t> lse_shape() const;
  Array place(std::vector<int64_t> shape, DType dtype, bool unaligned);
  /// Tensors [.., heads, width] that differ in heads alone, head after head in one memory, as one
  /// projection would write them.
  std::vector<Array> place_together(const std::vector<std::vector<int64_t>>& shapes);
  /// An input [.., heads, width] whose heads are one and the same memory (stride 0).
  Array place_repeated(const std::vector<int64_t>& shape);
  /// q, k and v or their gradients.
  void place_qkv(Array& a, Array& b, Array& c);
  void place_inputs();
  void place_outputs();
  void fill_inputs();
  void poison_beyond();
  /// The row, among all sequences' rows, of element n of LSE.
  int64_t lse_row(int64_t n) const;

  Random random_;
  CachePages pages_;
  std::vector<bool> row_counts_, key_counts_;  ///< not beyond a length, by row of the tensor
};

}  // namespace fa::check
