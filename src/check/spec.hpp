// One random problem in numbers: everything but the contents and places of its tensors.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "check/features.hpp"
#include "check/offer.hpp"
#include "fa/attention.hpp"

namespace fa::check {

/// The queries or the keys of all sequences.
struct SideSpec {
  bool packed = false;
  std::vector<int64_t> extent;  ///< of each sequence; all the same unless packed
  bool seqused = false;
  std::vector<int64_t> used;  ///< rows that count, where seqused is given
  int64_t seqlen = 0;         ///< of the batched tensor
  int64_t tail = 0;           ///< packed rows after the last sequence
  int64_t max_seqlen = 0;     ///< as passed for packed sequences

  int64_t length(int64_t b) const { return seqused ? used[b] : extent[b]; }
  int64_t total() const;           ///< rows in the tensor
  int64_t first(int64_t b) const;  ///< of a sequence, among all rows
};

/// A tensor of an option (check/option_tensors.hpp).
struct TensorSpec {
  std::vector<int64_t> shape;
  DType dtype = float32;
  bool masks = false;  ///< some numbers are -inf
  bool gradient = false;
  DType gradient_dtype = float32;
};

struct Spec {
  const Offer* offer = &cpu_offer;
  uint64_t seed = 0;
  int64_t index = 0;
  DType dtype{};
  bool backward = false;
  bool lse = true;
  int64_t batch = 0;
  int64_t heads_q = 0;
  int64_t heads_k = 0;
  int64_t dim = 0;
  int64_t dim_v = 0;
  SideSpec rows, keys;
  int64_t page_size = 0;  ///< of the cache that has the keys; 0: they lie in rows

  std::optional<double> scale;
  bool causal = false;
  int64_t window_left = -1;
  int64_t window_right = -1;
  double softcap = 0;
  double dropout_p = 0;
  uint64_t dropout_seed = 0;
  uint64_t dropout_offset = 0;
  bool dropout_state = false;
  std::map<Feature, TensorSpec> tensors;  ///< those of options that are given
  bool dlse = false;
  bool deterministic = false;
  bool batch_invariant = false;
  int32_t num_threads = 1;
  Family family = Family::automatic;

  bool strided = false;
  bool unaligned = false;
  /// Bytes that the rows of an unaligned tensor are aligned to: 8, 4 or 2; 0 draws one for each.
  int32_t alignment = 0;
  double score_size = 1;  ///< standard deviation of q's numbers
  double key_size = 1;    ///< of k's
  double value_size = 1;  ///< of v's
  double dout_size = 1;
  double sink_size = 2;
  bool same_values = false;  ///< all numbers of v are the same, and all of dO

  /// The tensor of an option, or null.
  const TensorSpec* tensor(Feature given) const {
    const auto found = tensors.find(given);
    return found == tensors.end() ? nullptr : &found->second;
  }
  /// Whether blocks of a device add to this output as they come, unless asked to keep an order: to
  /// dq, and to the gradient of a bias with rows of its own that heads or sequences share.
  bool added_as_they_come(std::string_view output) const;
  /// The features that the problem has in fact, which may differ from those asked for.
  Features features() const;
  /// Shapes, options and magnitudes in one line.
  std::string text() const;
};

/// A problem with these features. What a plan depends on is drawn from `fixed`, in the same order
/// whatever `random` holds; the rest from `random`. Both may be the same.
Spec draw_spec(const Offer& offer, const Features& features, Random& fixed, Random& random);

/// A problem with a pair that must be refused.
Spec draw_refused(const Offer& offer, Pair pair, uint64_t seed);

}  // namespace fa::check
