// The tensors among the options that change scores or their sums: one table, from which random
// problems draw, describe, place, fill, hand over and judge them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "check/array.hpp"
#include "check/features.hpp"
#include "check/random.hpp"
#include "check/spec.hpp"
#include "fa/attention.hpp"
#include "reference/reference.hpp"

namespace fa::check {

/// A dimension of such a tensor, by what it counts.
enum class Dim : uint8_t { batch, heads, rows, keys };

/// The reference's numbers of an output, and the sizes that its bound is made of.
struct Exact {
  std::vector<double> reference::Result::* values;
  std::vector<double> reference::Result::* sizes;
};

struct OptionTensor {
  /// The gradient, where there is one.
  struct Gradient {
    const char* name;
    Feature wanted;
    View BackwardArgs::* argument;
    Exact exact;
  };

  const char* name;
  Feature given;
  View Options::* argument;
  std::vector<Dim> dims;
  bool without_batch = false;  ///< dims[0] is the batch and may be left out
  /// Extents of 1 stand for all, but for the keys'.
  std::optional<Feature> broadcast{};
  bool of_q_dtype = false;  ///< it may have q's dtype, otherwise only float32
  /// Some numbers are -inf.
  std::optional<Feature> masks{};
  std::optional<Gradient> gradient{};
  /// Normal random numbers of q, k and v still give results of the usual sizes.
  bool usual = false;
  void (*fill)(const Array& array, const Spec& spec, const TensorSpec& tensor, Random& random);

  /// Without extents of 1 and with the batch.
  std::vector<int64_t> full_shape(const Spec& spec) const;
  /// The dimensions that a tensor has in fact.
  std::span<const Dim> dims_of(const TensorSpec& tensor) const;
  bool is_broadcast(const TensorSpec& tensor, const Spec& spec) const;
  /// Whether each sequence has numbers of its own.
  bool is_per_sequence(const TensorSpec& tensor, const Spec& spec) const;
  /// Whether element n is one of a row and a key within their sequence's lengths.
  bool counts(int64_t n, const TensorSpec& tensor, const Spec& spec) const;
};

/// All of them. Tensors are placed in this order and filled in the reverse one: a problem is the
/// whole of its seed, so that an option is best added at the end.
std::span<const OptionTensor> option_tensors();

}  // namespace fa::check
