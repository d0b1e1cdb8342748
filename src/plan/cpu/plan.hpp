// How the CPU runs a problem: tiles, chunks, threads and workspace. Pure functions of the problem;
// every size in floats or bytes has its one home here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "plan/rounding.hpp"
#include "problem/problem.hpp"

namespace fa {

/// Tile sizes. The defaults are measured; tests shrink them to meet their edges.
struct CpuTuning {
  /// Query rows of a tile, at least 16: 8 register tiles of 12 rows. With 128 keys and head_dim
  /// 128, Q, S and O of a tile take 144 KB and a block of K and V 128 KB: together within a core's
  /// L2 of 512 KB.
  int64_t forward_rows = 96;
  /// Twice as many where a key head's packed blocks are larger than this: they come from memory, or
  /// from a last cache shared with others, once for each tile. 8k keys of head_dim 128 (9.4 MB) 4
  /// to 6% faster; 5 MB 2% slower, or 2% faster beside busy neighbours. Counted in float32, which
  /// pairs fill half of (not measured).
  int64_t long_head_bytes = 6 << 20;
  int64_t forward_keys = 128;  ///< keys of a block; at most `max_block_keys`
  /// Key heads with at most so many query rows read K and V where they lie: packing them for so few
  /// would cost as much as the products.
  int64_t rows_in_place = 32;
  /// So many bytes of a key are read together, if need be of several heads, whose rows lie side by
  /// side: 1 KB of each key was read at half the rate of 8 KB.
  int64_t bytes_in_place = 8192;
  /// Outputs of so many bytes are taken for larger than a cache, and for fresh memory. They are
  /// stored past the caches, which saves reading their lines before they are overwritten (1k keys 1
  /// to 3% faster, 128 keys 4%, 64 keys 9%), after their pages were mapped (map_pages.hpp).
  int64_t large_bytes = 2 << 20;
  int64_t backward_rows = 96;
  int64_t backward_keys = 96;
  /// A key head with few query rows is cut along its keys in chunks of this many, so that decoding
  /// keeps all threads busy.
  int64_t split_keys = 512;
  /// Keys that a backward item holds at once, packed, with their dK and dV: 2.9 MB at head_dim 128.
  int64_t slab_keys = 960;
  /// After so many keys O and the sum of P, and after so many tiles of rows dK and dV, are added to
  /// totals that keep what their rounding takes (`sum_run` below); dQ where a chunk has more slabs.
  int64_t settle_keys = 1024;
  int64_t settle_tiles = 8;
  int64_t settle_slabs = 4;
  friend bool operator==(const CpuTuning&, const CpuTuning&) = default;
};

/// Widest vector, in floats: rows of scratch tiles are padded to it.
inline constexpr int64_t lane_pad = 16;
inline constexpr int64_t max_block_keys = 128;
/// Row stride of score tiles. Known to the compiler, and not a multiple of 4 KB, so that a column
/// of rows does not fall into one set of L1.
inline constexpr int64_t score_stride = max_block_keys + lane_pad;
/// More chunks than this would make dQ's partial sums more than linear in the sequence.
inline constexpr int64_t max_backward_chunks = 8;

/// float32 sums are sums of sums, so that their error does not grow with the number of keys or
/// rows: of so many products in a register, of those over a block, of a few blocks, and of these
/// with what rounding takes kept (Kahan). The worst case is n equal numbers, added one after the
/// other: each sum may be rounded the same way, which makes n / 4 roundings of the result, and 8 of
/// them are 4 eps.
inline constexpr int64_t sum_run = 16;
/// Of a score, and of dP, over head_dim: the passes need not add them up in one order, so that what
/// rounding takes is not the same in the forward and in the backward pass.
inline constexpr int64_t score_run = 32;

constexpr int64_t padded(int64_t n) { return ceil_div(n, lane_pad) * lane_pad; }
/// Row stride of a scratch matrix of n columns: padded, and an odd number of cache lines.
constexpr int64_t row_stride(int64_t n) {
  return padded(n) + (padded(n) / lane_pad % 2 == 0 ? lane_pad : 0);
}

/// Numbers and rows that two of AMX's tiles span: products by them have whole groups of so many
/// rows, columns and numbers of their depth.
inline constexpr int64_t tile_span = 32;
constexpr int64_t in_tiles(int64_t n) { return ceil_div(n, tile_span) * tile_span; }

/// Hands out pieces of a buffer, each on a cache line. Without a buffer it only counts.
class Arena {
 public:
  explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    const size_t begin = bytes_;
    bytes_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + begin);
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

struct CpuPlan {
  Problem problem;
  CpuTuning tuning;
  int threads = 1;
  int64_t packed_rows = 0;      ///< forward: query rows of a tile whose keys are packed
  int64_t heads_in_place = 1;   ///< forward: most key heads of a unit in place
  bool whole_units = false;     ///< forward: a thread does all of a unit, without barriers
  int64_t unit_floats = 0;      ///< forward: most room that a unit takes
  int64_t units_in_work = 0;    ///< forward: units between two barriers, or at once
  bool streams_out = false;     ///< forward: out is stored past the caches
  size_t shared_bytes = 0;      ///< forward: room for their packed K and V, or partial O and LSE
  int64_t backward_chunks = 1;  ///< most KV chunks of a sequence, each with a partial dQ
  size_t thread_bytes = 0;      ///< scratch of one thread
  size_t workspace_bytes = 0;
};

/// A tiny problem, which takes one thread unless it names a number.
bool runs_alone(const Problem& problem);
/// threads: how many there are to use when the problem names no number. It gets no more than there
/// is work for.
CpuPlan plan_cpu(const Problem& problem, int threads, const CpuTuning& tuning = {});
std::string to_text(const CpuPlan& plan);

// How one key head's work is cut, from the sequence's own lengths alone: never from the batch, its
// neighbours or the threads, so that the bits do not depend on them. (The rows of a tile whose keys
// are packed may: a row of it knows nothing of the others.)

/// Query rows of one tile: `rows` rows of each of `heads` heads of the group.
struct TileShape {
  int64_t heads;
  int64_t rows;
  int64_t head_tiles;
  int64_t row_tiles;
  int64_t count() const { return head_tiles * row_tiles; }
};
TileShape tile_shape(int64_t group, int64_t q_len, int64_t block_rows);

/// Where a tile lies.
struct Tile {
  int64_t head;  ///< first query head, within the group
  int64_t heads;
  int64_t row;
  int64_t rows;
};
Tile tile_at(const TileShape& shape, int64_t group, int64_t q_len, int64_t index);

/// What the forward pass does with a unit: one key head of a sequence, or a few in place.
struct ForwardCut {
  int64_t heads_k;      ///< of a unit; the last one of a sequence may have fewer
  bool in_place;        ///< K and V are read where they lie, not packed
  TileShape tiles;      ///< of a key head; all heads of a unit in place are one tile
  int64_t chunks;       ///< along the keys; more than 1 only with few queries
  int64_t pack_blocks;  ///< key blocks packed once for all tiles; 0: a tile packs its own, or reads
                        ///< in place
  int64_t head_floats;  ///< room in the shared part of the workspace for each key head
  int64_t units(int64_t heads) const { return ceil_div(heads, heads_k); }
  int64_t floats() const { return heads_k * head_floats; }
  int64_t items() const { return tiles.count() * chunks; }
};
ForwardCut cut_forward(const CpuPlan& plan, int64_t q_len, int64_t k_len);
int64_t cut_backward(const CpuPlan& plan, int64_t k_len);
/// Keys of a backward chunk; the last one of a sequence may have fewer.
int64_t chunk_keys(const CpuPlan& plan, int64_t k_len);
/// Whether dQ is summed over so many of a chunk's keys that what rounding takes is kept.
bool long_chunk(const CpuPlan& plan, int64_t keys);
/// Whether dK and dV are settled: a key head of float32 has many tiles of `q_len` rows.
bool many_tiles(const CpuPlan& plan, int64_t q_len);

/// Tiles of dbias: of each of its slots (a head of a sequence, as far as bias tells them apart).
struct BiasTiles {
  int64_t slots;
  int64_t heads;  ///< that a sequence has slots for
  int64_t rows;
  int64_t blocks;
  int64_t count() const { return slots * rows * blocks; }
};
BiasTiles bias_tiles(const CpuPlan& plan);

/// Floats of one packed key block: K transposed [head_dim][keys], then V [keys][head_dim_v].
int64_t packed_block_floats(const Problem& problem, int64_t block_keys);

// The pieces of the workspace. `Arena` without a buffer gives their size.

/// A thread's scratch for one forward tile.
struct ForwardScratch {
  ForwardScratch(Arena& arena, const CpuPlan& plan);
  float* q;             ///< [head_dim][rows], scaled: transposed, as the products read it; of a few
                        ///< rows that read keys in place: [rows][row_stride(head_dim)]
  float* s;             ///< [rows][score_stride]
  float* o;             ///< [rows][row_stride(head_dim_v)]
  float* maximum;       ///< [rows] so far
  float* next;          ///< [rows] with this block
  float* rescale;       ///< [rows] exp(maximum - next)
  float* sum;           ///< [rows][lane_pad] of exp(s - maximum), a partial sum in each lane
  float* base;          ///< [rows] maximum that the settled sums are taken against
  double* settled_sum;  ///< [rows] of exp(s - base)
  float* settled;       ///< [rows][row_stride(head_dim_v)] of O; in place the present block's O
  float* rest;          ///< [rows][row_stride(head_dim_v)] what rounding took from `settled`
  float* block;         ///< one packed key block
  float* keep;          ///< [score_stride], dropout's factors of a row
  int64_t* reach;       ///< [rows], keys that count for each group of rows
};

/// A thread's scratch for one backward item.
struct BackwardScratch {
  BackwardScratch(Arena& arena, const CpuPlan& plan);
  float* q_t;          ///< [head_dim][rows], scaled; for tiles [rows][row_stride(head_dim / 2)]
  float* q;            ///< [rows][row_stride(head_dim)], scaled
  float* dout_t;       ///< [head_dim_v][rows]; for tiles as q_t
  float* dout;         ///< [rows][row_stride(head_dim_v)]
  float* p;            ///< [rows][score_stride]
  float* ds;           ///< [rows][score_stride]
  float* ds_pairs;     ///< [rows / 2][score_stride] of bfloat16
  float* words_t;      ///< [keys][row_stride(rows / 2)] of bfloat16 pairs, for products by tiles
  float* dq;           ///< [rows][row_stride(head_dim)]
  float* lse;          ///< [rows], as in BackwardShared
  float* delta;        ///< [rows]
  float* two_rows;     ///< [2][row_stride(longest head_dim)]
  float* keep;         ///< [score_stride]
  float* cap;          ///< [score_stride], derivative of softcap
  float* bias;         ///< [rows][score_stride], sum of dbias
  float* bias_rest;    ///< what rounding took from it
  int64_t* reach;      ///< [rows], keys that count for each group of rows
  int64_t* first_row;  ///< [keys], the first row that counts for each group of keys
  float* k_t;          ///< slab: per block K^T [head_dim][score_stride]
  float* v_t;          ///< slab: per block V^T [head_dim_v][score_stride]
  float* k;            ///< slab: [keys][row_stride(head_dim)]
  float* dk;           ///< slab: [keys][row_stride(head_dim)], the last block's in_tiles(keys)
  float* dv;           ///< slab: [keys][row_stride(head_dim_v)], the same
  float* settled_dk;   ///< with more than `settle_tiles` tiles of float32 rows: as dk,
  float* dk_rest;      ///< and what rounding took from it
  float* settled_dv;   ///< the same of dv
  float* dv_rest;
};

/// What all threads of a forward pass share.
struct ForwardShared {
  ForwardShared(Arena& arena, const CpuPlan& plan);
  int64_t* units;   ///< [batch + 1] prefix sums over the sequences: units,
  int64_t* items;   ///< work items,
  int64_t* packs;   ///< key blocks to pack,
  int64_t* floats;  ///< and room in `data`
  char* data;
};

/// What all threads of a backward pass share.
struct BackwardShared {
  BackwardShared(Arena& arena, const CpuPlan& plan);
  float* delta;    ///< [heads_q][tokens_q]
  float* lse;      ///< [heads_q][tokens_q], +inf where the row sees no key
  float* dq;       ///< [backward_chunks][heads_q][tokens_q][head_dim], partial sums
  float* dq_rest;  ///< what rounding took from them, where some chunk is long_chunk()
};

}  // namespace fa
