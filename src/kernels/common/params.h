// What a launch hands to the kernels: plain numbers and addresses, the same on host and device.
#pragma once

#include "common/divisor.h"

namespace fa::kernel {

/// Rows of one tensor [batch, row, head, width]; strides in elements, packed tensors have batch 0.
/// lse is [batch, head, row], bias [batch, head, row, key], strides 0 where broadcast.
struct View {
  void* data;
  long long batch;
  long long row;
  long long head;
};

/// Where the sequences lie. Lengths in device memory may say anything: the kernels hold them within
/// the tensors and the maxima.
struct Lengths {
  const int* cu_seqlens;  ///< [batch + 1], or null
  const int* seqused;     ///< [batch], or null
  int seqlen;             ///< of a batched tensor; the longest packed sequence
  long long tokens;       ///< rows in a packed tensor
};

struct ForwardParams {
  View q, k, v, out, lse, bias, alibi, sinks;
  Lengths rows, keys;
  int batch;
  Divisor heads_q;
  Divisor group;          ///< query heads of a key head
  Divisor row_tiles;      ///< of a head, all packed sequences together
  Divisor section;        ///< heads whose tiles alternate, longest first (tile/place.cuh)
  Divisor section_tiles;  ///< of a section: section * row_tiles
  int split_keys;         ///< keys of a split, a multiple of the key tile
  float scale;            ///< of the scores, times log2(e) unless softcap follows
  float softcap;          ///< cap * log2(e)
  float keep_scale;       ///< 1 / (1 - dropout_p)
  unsigned threshold;     ///< an element is kept iff its word is at least this
  long long window_left;  ///< -1: unbounded
  long long window_right;
  unsigned long long seed;
  unsigned long long offset;
  const long long* dropout_state;  ///< (seed, offset) in device memory, or null
  float* partial_out;              ///< [splits][rows of all heads][head_dim_v]
  float* partial_lse;              ///< [splits][rows of all heads]
  long long partial_rows;
};

/// Bytes from behind a tile that was read to the next head's, and from that of the last head to the
/// first head's of the rows behind.
struct Walk {
  long long to_head;
  long long to_rows;
};

/// Of all kernels of a backward pass. `forward` is what it has in common with the forward pass; its
/// tiles are those of keys, whose heads are `order_heads`, or of rows in the kernels before and
/// after the main one.
struct BackwardParams {
  ForwardParams forward;
  View dout, dlse, dq, dk, dv, dsinks, dbias;
  Divisor order_heads;  ///< of a sequence, or their parts, whose tiles the blocks take
  int first_sequence;   ///< of a launch that takes one sequence, or one head of keys, of all
  int first_head;
  Divisor parts;  ///< blocks that share a tile of keys, with part_heads query heads each
  int part_heads;
  Walk q_walk, dout_walk;
  float gradient_scale;  ///< of dQ and dK: the scale of the scores
  float* lse_2;          ///< [heads_q][padded_rows], log2(e) * LSE; +inf where a row sees no key
  float* delta;          ///< [heads_q][padded_rows]: dO . O - dLSE
  float* dq_sum;         ///< [heads_q][padded_rows][padded head_dim], as tile/accumulate.cuh has it
  float* dk_sum;     ///< [heads_k][padded_keys][padded head_dim], where several blocks share them
  float* dv_sum;     ///< [heads_k][padded_keys][padded head_dim_v]
  float* dbias_sum;  ///< as tile/bias_sums.cuh has it
  int* dq_turns;     ///< [heads_q][padded_rows / tile]: how many blocks have added to dQ
  int* key_turns;    ///< [heads_k][padded_keys / tile]: and to a tile's dK and dV
  float* ranges;     ///< for float16, as range_of of tile/padded.cuh has them
  long long padded_rows;  ///< of a head: each sequence begins with a tile of its own
  long long padded_keys;
  int bias_batches;  ///< extents of the bias
  int bias_heads;
  int bias_rows;
};

/// Joins the splits of a forward pass, or two attentions over disjoint keys.
struct CombineParams {
  const float* partial_out;
  const float* partial_lse;
  long long partial_rows;
  int splits;
  View out, lse, sinks;
  int batch;  ///< 1 for packed rows
  int heads;
  long long seqlen;
};

struct MergeParams {
  View out_a, lse_a, out_b, lse_b, out, lse;
  int batch;
  int heads;
  long long seqlen;
  long long head_dim;
};

/// Rows of a block that combines splits or merges attentions: a warp each.
inline constexpr int joined_rows = 4;

/// The partial LSE of a row beyond every length: its results are 0 and -inf, sinks or not.
inline constexpr float unused_row = __builtin_bit_cast(float, 0x7f800000);  // +inf

}  // namespace fa::kernel
