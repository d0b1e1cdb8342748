// How the CPU runs a problem: arithmetic, tiles, chunks, threads and workspace. Pure functions of
// the problem. Every size in floats or bytes has its one home here.
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
  /// Tiles have twice as many rows where a key head's packed blocks are larger than this, because
  /// each tile then reads them from memory or from a shared last cache. With 8k keys of head_dim
  /// 128 (9.4 MB) that is 4 to 6% faster; with 5 MB it is 2% slower, or 2% faster beside busy
  /// neighbours. The size counts float32 numbers; pairs fill half of it (not measured).
  int64_t long_head_bytes = 6 << 20;
  int64_t forward_keys = 128;  ///< keys of a block; at most `max_block_keys`
  /// A key head with at most this many query rows reads K and V where they lie: packing would cost
  /// as much as the products.
  int64_t rows_in_place = 32;
  /// Bytes of a key's row that a unit reads together, from several heads if need be, whose rows lie
  /// side by side. 1 KB of each key was read at half the rate of 8 KB.
  int64_t bytes_in_place = 8192;
  /// The plan takes outputs of this many bytes for fresh memory that is larger than a cache. Their
  /// pages are mapped beforehand (map_pages.hpp), and they are stored past the caches, which saves
  /// reading lines before they are overwritten (1k keys 1 to 3% faster, 128 keys 4%, 64 keys 9%).
  int64_t large_bytes = 2 << 20;
  int64_t backward_rows = 96;
  int64_t backward_keys = 96;
  /// A key head with few query rows is cut along its keys in chunks of this many, so that decoding
  /// keeps all threads busy.
  int64_t split_keys = 512;
  /// Keys that a backward item holds at once, packed, with their dK and dV: 2.9 MB at head_dim 128.
  int64_t slab_keys = 960;
  /// How often sums are added to totals that keep what rounding takes from them (`sum_run` below):
  /// O and the sum of P after this many keys, dK and dV after this many tiles of rows, and each
  /// addition to dQ, if a chunk has more slabs than this.
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
/// With a number of chunks that grows with the sequence, dQ's partial sums would take more than
/// linear memory.
inline constexpr int64_t max_backward_chunks = 8;

/// float32 sums are sums of sums, so that their error does not grow with the number of keys or
/// rows. A register sums this many products; a block sums those, a few blocks are summed, and
/// Kahan's sum over these keeps what rounding takes. The worst case is n equal numbers, added one
/// after the other: each sum may be rounded the same way, which makes n / 4 roundings of the
/// result, and 8 of them are 4 eps.
inline constexpr int64_t sum_run = 16;
/// How many products a register sums of a score or of dP, which are sums over head_dim. The two
/// passes may add these sums in different orders, so that they round differently.
inline constexpr int64_t score_run = 32;

constexpr int64_t padded(int64_t n) { return ceil_div(n, lane_pad) * lane_pad; }
/// Row stride of a scratch matrix of n columns: padded, and an odd number of cache lines.
constexpr int64_t row_stride(int64_t n) {
  return padded(n) + (padded(n) / lane_pad % 2 == 0 ? lane_pad : 0);
}

/// Rows, and numbers of a row, that two of AMX's tiles span. A product by tiles has whole groups of
/// this many rows, columns and numbers of its depth.
inline constexpr int64_t tile_span = 32;
constexpr int64_t in_tiles(int64_t n) { return ceil_div(n, tile_span) * tile_span; }

/// Hands out pieces of a buffer, each on a cache line. Without a buffer it only counts bytes.
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

/// How a pass multiplies its numbers.
enum class Arithmetic : uint8_t {
  widened,  ///< as float32
  pairs,    ///< bfloat16 as it is, two products in each lane of a vector
  tiles     ///< bfloat16 as it is, by tile registers
};

struct CpuPlan {
  Problem problem;
  CpuTuning tuning;
  Arithmetic arithmetic{};           ///< of packed keys
  Arithmetic arithmetic_in_place{};  ///< forward: of keys that are read where they lie
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

/// Whether a problem is so small that one thread runs it, unless it names a number of threads.
bool runs_alone(const Problem& problem);
/// threads: how many to use when the problem names no number. The plan takes no more than there is
/// work for. bfloat16: how this CPU is to multiply bfloat16.
CpuPlan plan_cpu(const Problem& problem, int threads, Arithmetic bfloat16 = Arithmetic::widened,
                 const CpuTuning& tuning = {});
std::string to_text(const CpuPlan& plan);

// How one key head's work is cut. Cuts depend on the sequence's own lengths alone, never on the
// batch, its neighbours or the threads, so that the bits of the results do not depend on those.
// (Rows of a tile whose keys are packed may: a row's result does not depend on the other rows.)

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

/// How the forward pass cuts a unit: one key head of a sequence, or a few that are read in place.
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
/// Whether a chunk has so many keys that the sum of dQ keeps what rounding takes from it.
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
  float* slope;        ///< [score_stride], of a row's scores
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
