// The problem that tiles are timed on: shapes and options, what they count as, and their call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "problem/problem.hpp"

namespace fa::bench {

/// Which numbers a bias has: none, one for each key, or for each row and key.
enum class Bias { none, keys, rows };

struct Work {
  DType dtype = bfloat16;
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;
  int64_t heads_q = 0;
  int64_t heads_k = 0;
  int64_t batch = 0;
  int64_t seqlen_q = 0;
  int64_t seqlen_k = 0;
  /// Lengths of packed sequences, of queries and keys alike, or empty. batch is their number.
  std::vector<int64_t> lengths;
  bool causal = false;
  int64_t window = -1;  ///< keys that a query sees before its own; -1 is all
  double softcap = 0;
  double dropout_p = 0;
  bool alibi = false;
  Bias bias = Bias::none;             ///< of all heads, in dtype
  Family family = Family::automatic;  ///< whose kernel

  int64_t tokens_q() const;
  int64_t tokens_k() const;
  /// Without a window as the papers count: half of all pairs under a causal mask. With a window
  /// only the pairs of a query and a key that it sees.
  double flops() const;
  std::string text() const;
};

/// "lognormal:64:1", which is 64 lengths around 512 drawn with seed 1, or "100,20,300". Throws
/// Error naming --packed.
std::vector<int64_t> parse_lengths(const std::string& text);

/// Addresses of a call's tensors on the device; null for a plan alone.
struct Addresses {
  std::byte *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr, *lse = nullptr;
  std::byte* cu_seqlens = nullptr;
  std::byte* alibi_slopes = nullptr;
  std::byte* bias = nullptr;
};
std::vector<int32_t> cu_seqlens(const Work& work);
std::vector<float> alibi_slopes(const Work& work);
std::vector<uint16_t> bias_numbers(const Work& work);

/// Throws Error.
Call call_of(const Work& work, const Addresses& at, Device device, Data data);

}  // namespace fa::bench
