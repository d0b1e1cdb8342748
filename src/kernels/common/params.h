// The parameters of a launch: plain numbers and addresses, the same on host and device.
#pragma once

#include "common/divisor.h"
#include "common/order.h"
#include "common/tensor_map.h"

namespace fa::kernel {

/// Rows of one tensor [batch, row, head, width]; strides in elements, packed tensors have batch 0.
/// lse is [batch, head, row], bias [batch, head, row, key], strides 0 where broadcast.
struct View {
  void* data;
  long long batch;
  long long row;
  long long head;
};

/// Rows, or keys, of all sequences. Lengths in device memory may say anything: the kernels hold
/// them within the tensors and the maxima.
struct Lengths {
  const int* cu_seqlens;  ///< [batch + 1], or null
  const int* seqused;     ///< [batch], or null
  int seqlen;             ///< of a batched tensor; the longest packed sequence
  long long tokens;       ///< rows in a packed tensor
};

struct Heads {
  Divisor group;  ///< query heads of a key head
  int query;
};

/// The tensors of the attention itself.
struct Operands {
  View q, k, v, out, lse;
};

/// The terms of a score beside q.k, and the sinks.
struct ScoreArgs {
  View bias, alibi, sinks;
  float scale;    ///< of q.k, times log2(e) unless softcap follows
  float softcap;  ///< cap * log2(e)
};

/// Keys that a row sees beside its diagonal one; -1: unbounded.
struct Window {
  long long left;
  long long right;
};

struct DropoutArgs {
  float keep_scale;    ///< 1 / (1 - dropout_p)
  unsigned threshold;  ///< an element is kept iff its word is at least this
  unsigned long long seed;
  unsigned long long offset;
  const long long* state;  ///< (seed, offset) in device memory, or null
};

/// The results of the splits of a forward pass, to be joined.
struct Partial {
  int keys;        ///< of a split, a multiple of the key tile
  float* out;      ///< [splits][rows][head_dim_v]; of shares [2 * most][rows][head_dim_v]
  float* lse;      ///< the same without columns
  long long rows;  ///< of all heads; of shares those of a tile
};

/// A tile whose keys lie in several shares, for the kernel that joins their results.
struct alignas(16) SharedTile {
  long long begin;          ///< of the sequence's rows in the tensor
  int extent, length;       ///< of the sequence's rows, and how many of these count
  int sequence, head, row;  ///< the first of the tile
  int last_share;           ///< of those that it lies in; who had the first wrote this. -1: none
};

/// How the steps of all tiles are shared out between the blocks of a launch. There may be several
/// shares for each block, which a counter hands out.
struct Shares {
  int heads;          ///< tiles side by side: query heads, or groups of them
  int tile_heads;     ///< query heads of a tile
  Divisor positions;  ///< rows of each of them
  int most;           ///< shares
  SharedTile* tiles;  ///< [most]: of each share the last tile, where it ends behind the share
  int* count;         ///< how many shares there are
};

/// Pages of a cache: key j of sequence b is row j % size of the page that stands at [b, j / size]
/// of the table. k's and v's batch strides are those of pages. The numbers lie in device memory and
/// may say anything: the kernels hold them within the cache.
struct PageTable {
  const int* numbers;
  long long batch, page;  ///< strides, in numbers
  Divisor size;           ///< keys of a page
  int last;               ///< number of the cache's last page
};

struct ForwardParams {
  Operands operands;
  Lengths rows, keys;
  Heads heads;
  Order order;
  ScoreArgs score;
  Window window;
  DropoutArgs dropout;
  Partial partial;
  PageTable pages;
};

/// Hands out tiles. It may hold anything before a launch, whose first block opens it by the
/// launch's own number; the block that takes the last number closes it, for a graph that launches
/// again.
struct alignas(16) TileCounter {
  unsigned long long launch;  ///< 0: closed
  int next;
};

/// How a tile holds the rows of all query heads that share their keys, side by side: row r is of
/// the head r % heads and at the tile's position r / heads. What remains of the tile's rows at the
/// end does not exist.
struct SideBySide {
  Divisor heads;
  Divisor positions;  ///< of a tile

  constexpr int rows() const { return heads.value * positions.value; }
};

/// For a forward kernel whose blocks take tile after tile, by the copy engine. The maps' boxes have
/// a tile's rows, of `out` a warp's 16 (common/tensor_map.h says what else).
struct TiledForwardParams {
  TensorMap q, k, v, out, bias;
  ForwardParams forward;
  Divisor blocks;  ///< tiles of rows, of one split
  int tiles;       ///< of all splits
  SideBySide side_by_side;
  TileCounter* counter;  ///< or null: each block knows its tiles
  unsigned long long launch;
  Shares shares;
};

/// Steps of a tile reader's pointer after a tile, in bytes: to the same rows of the next head, and
/// from the last head to the next rows of the first head.
struct Walk {
  long long to_head;
  long long to_rows;
};

/// For all kernels of a backward pass. `order` is the launch's own: tiles of keys for the main
/// kernel, tiles of rows for most kernels before and after it.
struct BackwardParams {
  Operands operands;
  Lengths rows, keys;
  Heads heads;
  ScoreArgs score;
  Window window;
  DropoutArgs dropout;
  View dout, dlse, dq, dk, dv, dsinks, dbias;
  int part_heads;  ///< query heads of a block of the main kernel
  Order order;
  Divisor parts;  ///< blocks that share a tile of keys, with part_heads query heads each
  Walk q_walk, dout_walk;
  float gradient_scale;  ///< of dQ and dK: the scale of the scores
  float* lse_2;          ///< [heads_q][padded_rows], log2(e) * LSE; +inf where a row sees no key
  float* delta;          ///< [heads_q][padded_rows]: dO . O - dLSE
  float* dq_sum;         ///< [heads_q][padded_rows][padded head_dim], as tile/accumulate.cuh has it
  float* dk_sum;     ///< [heads_k][padded_keys][padded head_dim], where several blocks share them
  float* dv_sum;     ///< [heads_k][padded_keys][padded head_dim_v]
  float* dbias_sum;  ///< as tile/bias_sums.cuh has it
  int* dq_turns;   ///< [heads_q][padded_rows / tile][1, or parts of the tile's dQ]: how many blocks
                   ///< have added to dQ; with first_stores 1 while the first one stores, then 2;
                   ///< with clears_sums 1 while a warp sets them to 0, then 2
  int* key_turns;  ///< [heads_k][padded_keys / tile]: and to a tile's dK and dV
  float* ranges;   ///< for float16, as range_of of tile/padded.cuh has them
  long long padded_rows;  ///< of a head: each sequence begins with a tile of its own
  long long padded_keys;
  int bias_batches;  ///< extents of the bias
  int bias_heads;
  int bias_rows;
  long long dq_turns_count;  ///< 0 where dQ's sums need none
};

/// For a main backward kernel whose blocks take tile of keys after tile of keys, by the copy
/// engine. The maps' boxes have a tile's rows, or a block's keys. `backward.order` is of these
/// tiles.
struct TiledBackwardParams {
  TensorMap q, k, v, dout;
  TensorMap k_panels;  ///< of one panel of K; for a kernel of clusters
  BackwardParams backward;
  int tiles;  ///< of keys, for each part of the query heads
  TileCounter* counter;
  unsigned long long launch;
};

/// For the kernel that joins the splits of a forward pass.
struct CombineParams {
  Partial partial;
  int splits;
  View out, lse, sinks;
  int batch;  ///< 1 for packed rows
  int heads;
  long long seqlen;
};

/// For the kernel that joins the shares of a forward pass.
struct JoinParams {
  Partial partial;
  Shares shares;
  View out, lse, sinks;
};

/// For the kernel that joins two attentions over disjoint keys.
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
