// The problem that a call poses: shapes, dtypes, masks and options of one pass, validated once. A
// problem names its device and holds nothing about the device's limits.
#pragma once

#include <cstdint>
#include <string>

#include "fa/attention.hpp"

namespace fa {

/// DLPack's numbers of the devices that there are kernels for.
inline constexpr int32_t cpu_device = 1;
inline constexpr int32_t cuda_device = 2;

enum class Pass : uint8_t { forward, backward };

/// The queries or the keys of all sequences.
struct Side {
  int64_t heads = 0;
  int64_t seqlen = 0;     ///< of the longest sequence: the extent, or max_seqlen when packed
  int64_t tokens = 0;     ///< of all sequences: batch * seqlen, or the packed total
  bool packed = false;    ///< cu_seqlens is given
  bool used = false;      ///< seqused is given
  int64_t page_size = 0;  ///< keys of a page; 0: they lie in no pages, as queries do

  friend bool operator==(const Side&, const Side&) = default;
};

/// How the product of a query and a key becomes a score, and which keys a row sees.
struct Score {
  double scale = 1;
  double softcap = 0;         ///< 0 is none
  int64_t window_left = -1;   ///< -1 unbounded, else 0 .. q.seqlen + k.seqlen
  int64_t window_right = -1;  ///< causal is window_right = 0
  bool alibi = false;
  bool bias = false;
  bool sinks = false;
  bool bias_per_batch = false;  ///< bias has an extent of its own along batch, heads, rows
  bool bias_per_head = false;
  bool bias_per_row = false;
  bool bias_aligned = true;  ///< its rows begin at multiples of 16 bytes, and no view repeats them
  DType bias_dtype{};
  DType sinks_dtype{};

  /// Whether the kernel reads a tensor for each score or row: a bias, or the slopes of ALiBi.
  bool reads_tensors() const { return alibi || bias; }
  friend bool operator==(const Score&, const Score&) = default;
};

/// Which results the caller wants besides the output, or besides dq, dk and dv.
struct Wants {
  bool lse = false;   ///< forward writes it; backward always reads it
  bool dlse = false;  ///< the rest: backward only; the part of LSE's gradient in dq and dk
  bool dbias = false;
  bool dsinks = false;
  DType dbias_dtype{};
  DType dsinks_dtype{};

  friend bool operator==(const Wants&, const Wants&) = default;
};

/// How the caller wants the pass to run.
struct Run {
  bool deterministic = false;
  bool batch_invariant = false;
  int32_t num_threads = 0;  ///< 0: as many as the CPU offers
  Family family = Family::automatic;

  friend bool operator==(const Run&, const Run&) = default;
};

/// Everything that a plan may depend on; no pointers, strides or seeds.
struct Problem {
  Pass pass = Pass::forward;
  Device device{};
  DType dtype{};
  int64_t batch = 0;
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;
  Side q, k;
  Score score;
  double dropout_p = 0;
  Wants wants;
  int32_t alignment = 16;  ///< bytes, 16, 8, 4 or 2: what all rows of q, k, v, out, ... share
  Run run;

  int64_t group() const { return q.heads / k.heads; }
  /// The most keys that a row sees.
  int64_t keys_of_row() const {
    const bool bounded = score.window_left >= 0 && score.window_right >= 0;
    return bounded && score.window_left + score.window_right < k.seqlen
               ? score.window_left + score.window_right + 1
               : k.seqlen;
  }
  friend bool operator==(const Problem&, const Problem&) = default;
};

/// Rows of one tensor [batch, row, head, width]. A packed tensor has the batch stride 0. lse is
/// [batch, head, row] with width 1, bias [batch, head, row, key]; a broadcast extent has the stride
/// 0.
struct Rows {
  char* data = nullptr;
  DType dtype{};
  int64_t batch = 0;  ///< strides in elements
  int64_t row = 0;
  int64_t head = 0;

  bool given() const { return data != nullptr; }
  int64_t offset(int64_t b, int64_t r, int64_t h) const { return b * batch + r * row + h * head; }
  template <typename T>
  T* at(int64_t b, int64_t r, int64_t h) const {
    return reinterpret_cast<T*>(data) + offset(b, r, h);
  }
};

/// The rows or the keys of one sequence.
struct Span {
  int64_t begin = 0;   ///< the tensor's first row of this sequence (0 unless packed)
  int64_t extent = 0;  ///< rows that it occupies
  int64_t len = 0;     ///< rows that count, after seqused
};

/// The pages in which the keys of one sequence lie.
struct Pages {
  const int32_t* numbers = nullptr;  ///< of the first page, of the second, ...
  int64_t stride = 0;                ///< between these, in elements
  int64_t size = 0;                  ///< keys of a page; 0: there are none

  // mutant "page table" of paged_test: key / size => 0
  int64_t page(int64_t key) const { return numbers[key / size * stride]; }
  /// The first key behind `key` that lies in another page.
  int64_t end_of_page(int64_t key) const { return (key / size + 1) * size; }
};

/// One sequence of the batch.
struct Sequence {
  int64_t index = 0;
  Span q, k;
  Pages pages;
};

/// A validated call: the problem, and the addresses of its tensors.
struct Call {
  Problem problem;
  Rows q, k, v, out, lse;
  Rows dout, dq, dk, dv, dlse;
  Rows bias, dbias, alibi, sinks, dsinks;
  int64_t page_count = 0;  ///< of the cache
  Rows page_table;         ///< [batch, page]; with it, k's and v's batch strides are those of pages
  const int32_t* cu_seqlens_q = nullptr;
  const int32_t* cu_seqlens_k = nullptr;
  const int32_t* seqused_q = nullptr;
  const int32_t* seqused_k = nullptr;
  uint64_t dropout_seed = 0;
  uint64_t dropout_offset = 0;
  const int64_t* dropout_state = nullptr;

  /// Reads the lengths from the host's memory, so only for tensors on the CPU.
  Sequence sequence(int64_t b) const;
};

enum class Data : uint8_t {
  required,  ///< a tensor that is not empty must have its data: the call will run
  optional   ///< planning: only lengths are read, if they have data
};

/// Checks every argument against include/fa/attention.hpp. Throws Error naming the argument, its
/// value and what is allowed. Reads lengths (cu_seqlens, seqused) but no other data. The caller's
/// workspace counts as one more output: no tensor may share memory with it.
Call validate(const ForwardArgs& args, const Options& options, Data data,
              const Tensor& workspace = {});
Call validate(const BackwardArgs& args, const Options& options, Data data,
              const Tensor& workspace = {});

/// A validated call of `merge`. Packed tensors are a batch of one.
struct MergeCall {
  int64_t batch = 0;
  int64_t seqlen = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  Rows out_a, lse_a, out_b, lse_b, out, lse;
};
MergeCall validate_merge(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                         const Tensor& lse_b, const Tensor& out, const Tensor& lse);

/// Name of a dtype ("float32", "bfloat16", "int16x4" ...).
std::string name(DType dtype);

inline int64_t bytes_of(DType dtype) { return dtype.bits * dtype.lanes / 8; }

}  // namespace fa
