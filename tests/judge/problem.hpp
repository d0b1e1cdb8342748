// One random problem: tensors and options as the C ABI takes them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace judge {

// The largest head_dim but for the pair 576, 512, as fa.h gives it.
inline constexpr int64_t max_head_dim = 512;

// One sequence's rows (or keys): where they begin in packed tokens, how many the tensor holds, and
// how many count.
struct Sequence {
  int64_t first = 0;
  int64_t extent = 0;
  int64_t used = 0;
};

// Query rows, or keys and values.
struct Side {
  bool packed = false;
  bool has_used = false;
  int64_t rows = 0;     // of the tensor: S, or T of all sequences
  int64_t longest = 0;  // the max_seqlen that is passed
  std::vector<Sequence> sequences;
  Tensor begins;  // cu_seqlens
  Tensor used;    // seqused

  [[nodiscard]] Tensor::Index at(int64_t sequence, int64_t row, int64_t head, int64_t d) const {
    if (!packed) return {sequence, row, head, d};
    return {sequences[static_cast<size_t>(sequence)].first + row, head, d, 0};
  }
  // The place in lse.
  [[nodiscard]] Tensor::Index at_lse(int64_t sequence, int64_t head, int64_t row) const {
    if (!packed) return {sequence, head, row, 0};
    return {head, sequences[static_cast<size_t>(sequence)].first + row, 0, 0};
  }
  [[nodiscard]] int64_t most_used() const;
};

struct Problem {
  uint64_t seed = 0;
  uint64_t number = 0;
  const Format* format = nullptr;
  int64_t batch = 0;
  int64_t heads_k = 0;
  int64_t group = 0;
  int64_t dim = 0;
  int64_t dim_v = 0;
  Side rows;
  Side keys;

  fa_options options = FA_OPTIONS_INIT;
  uint64_t dropout_seed = 0;  // what counts, wherever it is passed
  uint64_t dropout_offset = 0;
  Tensor dropout_state, alibi, bias, sinks;

  Tensor q, k, v, out, lse;
  Tensor dout, dlse, dq, dk, dv, dbias, dsinks;

  bool by_plan = false;
  bool without_lse = false;  // the forward pass is called once more, without one
  bool again = false;        // both passes are called once more, another way: bits must be equal
  bool standard_normal = false;

  // What this problem met, for the count.
  std::vector<std::string> met;

  [[nodiscard]] int64_t heads_q() const { return heads_k * group; }
  [[nodiscard]] double scale() const;
  [[nodiscard]] bool seen(int64_t used_q, int64_t used_k, int64_t row, int64_t key) const;
  [[nodiscard]] std::string text() const;
};

// The problem of that number; the same for the same seed.
void draw(uint64_t seed, uint64_t number, Problem& problem);

// Fills q, k, v, dout, and NaN where no row or key counts.
void fill_values(Random& random, Problem& problem);

}  // namespace judge
