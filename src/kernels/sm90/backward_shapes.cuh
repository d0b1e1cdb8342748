// What the warps of the backward kernel agree on: its Config, the order of the sums in global
// memory, its shared memory, and the tile of keys that they have in hand.
#pragma once

#include "common/config.h"
#include "common/flag.h"
#include "common/padding.h"
#include "common/params.h"
#include "ptx/shared.cuh"
#include "tile/accumulate.cuh"
#include "tile/group_product.cuh"
#include "tile/number.cuh"
#include "tile/padded.cuh"
#include "tile/panels.cuh"
#include "tile/pipe.cuh"
#include "tile/place.cuh"
#include "tile/uniform.cuh"

namespace fa::sm90 {

using namespace fa::tile;
using kernel::Flag, kernel::pad16;

/// How the plan cuts the kernels (plan/cuda/sm90/backward_tiles.hpp says what each number does).
struct BackwardConfig : kernel::GradientConfig {
  static constexpr int key_stages = 1;
  static constexpr int value_stages = 1;
  static constexpr bool rotates = false;
  static constexpr int dq_parts = 2;  ///< of the sums of a tile of rows, each with its counter
};

/// What the kernels of src/kernels/pass are templates of. Their blocks have a warp for each one of
/// the main kernel that computes.
template <class C>
struct BackwardSums {
  using Config = C;
  using Element = Format<C::element>;

  static constexpr int threads = 256;
  static constexpr int depth = C::depth;  ///< of the sums of dQ: the groups share whole panels
  static constexpr int width = C::width;  ///< of V, padded

  // As these kernels put their results together.
  using QueryTile = SharedTile<C::rows, depth>;
  using KeyTile = SharedTile<C::keys, depth>;
  using ValueTile = SharedTile<C::keys, width>;

  /// S^T and dP^T: a warp has 16 keys and all rows.
  using ScoreGrid = WarpGrid<8, C::keys, C::rows, 1>;
  using QueryGrid = GroupGrid<C::rows, depth>;
  using KeyGrid = WarpGrid<8, C::keys, pad16(C::head_dim), 1>;
  using ValueGrid = WarpGrid<8, C::keys, width, 1>;
  /// Of a warp's columns: 96 are not whole panels of QueryTile.
  static constexpr int query_parts = depth == 192 ? 3 : 1;
  using QuerySum = FragmentOrder<QueryGrid, query_parts>;
  using KeySum = FragmentOrder<KeyGrid, 1>;
  using ValueSum = FragmentOrder<ValueGrid, 1>;
};

template <class C>
struct BackwardShapes : BackwardSums<C> {
  static constexpr int groups = 2;       ///< of four warps that compute
  static constexpr int group_keys = 64;  ///< whose dK and dV a group has
  static_assert(C::keys == groups * group_keys && (C::rows == 64 || C::rows == 128));
  static_assert(!C::rotates || !C::deterministic, "its turns pass in the order of rows");
  static_assert(C::first_stores + C::clears_sums + C::deterministic <= 1, "a counter has one use");
  static_assert(C::dq_parts == groups);
  /// The warp that would load V and dO clears sums instead, where one is needed for that. In
  /// float16 ptxas has no registers for the groups' products beside a second loader.
  static constexpr bool two_loaders =
      !C::clears_sums && !BackwardSums<C>::Element::scales_gradients;
  static constexpr int block_keys = C::keys;
  static constexpr int block_threads = 128 * (1 + groups);  ///< the loader's group comes first
  static constexpr int loader_registers = 24, group_registers = 240;
  static constexpr int together = 128 * groups;  ///< threads that compute

  /// dS^T or P^T of a step, as a warp has it.
  using Scores = float[1][C::rows / 8][4];
  /// The same as the operand A of a product over rows.
  using Operand = KeptSlices<C::rows / 16, 1>;

  using QueryPanels = PanelTile<C::rows, C::head_dim>;
  using DoutPanels = PanelTile<C::rows, C::head_dim_v>;
  static constexpr int dout_pieces = 1;
  using KeyPanels = PanelTile<C::keys, C::head_dim>;
  using ValuePanels = PanelTile<C::keys, C::head_dim_v>;
  using ScorePanels = PanelTile<C::keys, C::rows>;  ///< dS^T

  static constexpr int statistic_bytes = 4 * C::rows;  ///< LSE or delta of a step's rows
  using KeyPipe = Pipe<C::key_stages, KeyPanels::bytes>;
  using ValuePipe = Pipe<C::value_stages, ValuePanels::bytes>;
  using QueryPipe = Pipe<2, QueryPanels::bytes>;
  using DoutPipe = Pipe<2, DoutPanels::bytes>;
  using TilePipe = Pipe<2, 64>;  ///< of KeysInHand

  /// dQ of a step on its way to the sums in global memory: a warp's part, and a group's.
  static constexpr int warp_sum_bytes = 32 * sizeof(typename BackwardSums<C>::QuerySum::Part);
  static constexpr int sum_bytes = 4 * warp_sum_bytes;
  using SumPipe = Pipe<1, sum_bytes>;

  // Shared memory: stages of K, V, Q and dO, dS of two steps, dQ of one, LSE and delta of two
  // steps, the tile in hand, all barriers.
  static constexpr int value_begin = KeyPipe::bytes;
  static constexpr int query_begin = value_begin + ValuePipe::bytes;
  static constexpr int dout_begin = query_begin + QueryPipe::bytes;
  static constexpr int scores_begin = dout_begin + DoutPipe::bytes;
  static constexpr int sums_begin = scores_begin + 2 * ScorePanels::bytes;
  static constexpr int statistics_begin = sums_begin + groups * SumPipe::bytes;
  static constexpr int tile_begin = statistics_begin + 4 * statistic_bytes;
  static constexpr int barriers_begin = tile_begin + TilePipe::bytes;
  static constexpr int landed = barriers_begin + KeyPipe::barrier_bytes + ValuePipe::barrier_bytes +
                                QueryPipe::barrier_bytes + DoutPipe::barrier_bytes +
                                TilePipe::barrier_bytes + groups * SumPipe::barrier_bytes;
  static constexpr int gradients_there = landed + 8;  ///< dS^T of a step is
  static constexpr int dout_landed = landed + 16;     ///< as `landed`, of V and dO
  static_assert(C::shared_bytes == landed + 32, "as the plan says");

  /// Where a group's dQ goes to its adder, which is the pipe's only user.
  static __device__ SumPipe sums_of(u32 base, int group) {
    return {base + sums_begin + group * SumPipe::bytes,
            base + landed - (groups - group) * SumPipe::barrier_bytes};
  }
};

/// One warp's ends of all pipes.
template <class C>
struct BackwardPipes {
  using Shapes = BackwardShapes<C>;
  Shapes::KeyPipe k;
  Shapes::ValuePipe v;
  Shapes::QueryPipe q;
  Shapes::DoutPipe dout;
  Shapes::TilePipe tiles;

  explicit __device__ BackwardPipes(u32 shared)
      : k(shared, shared + Shapes::barriers_begin),
        v(shared + Shapes::value_begin, k.barriers + Shapes::KeyPipe::barrier_bytes),
        q(shared + Shapes::query_begin, v.barriers + Shapes::ValuePipe::barrier_bytes),
        dout(shared + Shapes::dout_begin, q.barriers + Shapes::QueryPipe::barrier_bytes),
        tiles(shared + Shapes::tile_begin, dout.barriers + Shapes::DoutPipe::barrier_bytes) {}

  __device__ void init() const {
    constexpr int users = 4 * Shapes::groups, adders = Shapes::groups;
    k.init(users);
    v.init(users);
    q.init(users);
    dout.init(users);
    tiles.init(users + adders + (C::clears_sums || Shapes::two_loaders));
  }

  /// The statistics of the stages in hand.
  __device__ u32 lse() const {
    return k.memory + Shapes::statistics_begin +
           q.offset / (Shapes::QueryPanels::bytes / Shapes::statistic_bytes);
  }
  __device__ u32 delta() const {
    return k.memory + Shapes::statistics_begin + 2 * Shapes::statistic_bytes +
           dout.offset / (Shapes::DoutPanels::bytes / Shapes::statistic_bytes);
  }
};

/// The keys that the block works on, and the rows [begin, end), of whole tiles, that see some of
/// them; of these all see all keys from full_begin to full_end.
struct KeysInHand {
  Place place;      ///< of the keys: `row` is the first, `head` that of keys
  int part;         ///< of the query heads that share the keys
  int query_head;   ///< the first of them
  int q_len;        ///< rows of the sequence that count
  int padded_tile;  ///< the sequence's first tile of rows among the padded ones
  int begin, end, full_begin, full_end;
};

template <class C>
inline constexpr bool rotates = C::rotates && C::all_seen;

/// The first row of a tile's walk.
template <class C>
__device__ int start_of(const KeysInHand& tile) {
  if constexpr (!rotates<C>) return tile.begin;
  return tile.begin + tile.place.row % (tile.end - tile.begin);
}
/// The row after the one before `row`: behind the last comes the first.
template <class C>
__device__ int wrapped(const KeysInHand& tile, int row) {
  return rotates<C> && row >= tile.end ? tile.begin : row;
}

/// Of a tile's walk: its rows, and for each the heads of the block.
template <class C>
__device__ int steps_of(const KeysInHand& tile, int heads) {
  return (tile.end - tile.begin) / C::rows * heads;
}
/// The first of a step's rows among the padded ones of all heads.
template <class C>
__device__ long long padded_row(const kernel::BackwardParams& p, const KeysInHand& tile,
                                const Place& at) {
  return at.head * p.padded_rows + static_cast<long long>(tile.padded_tile) * C::rows + at.row;
}
/// How far the sum of dQ of the step at this row is from that of the step before. `same_rows`: that
/// was of the same rows, of the head before.
template <class C>
__device__ long long sum_move(const kernel::BackwardParams& p, const KeysInHand& tile, int row,
                              bool same_rows) {
  const long long to_next_head = p.padded_rows * C::depth;
  if (same_rows) return to_next_head;
  long long move = C::rows * C::depth - (p.part_heads - 1) * to_next_head;
  // Behind the last row came the first one.
  if (rotates<C> && row == tile.begin) {
    move -= static_cast<long long>(tile.end - tile.begin) * C::depth;
  }
  return move;
}

/// Reads the next tile, as BackwardCopies::hand_out has told it; false where there is none.
template <typename TilePipe>
__device__ bool take_tile(TilePipe& tiles, int lane, KeysInHand& tile) {
  tiles.wait_until_full();
  const u32 at = tiles.stage();
  const uint4 a = uniform(ptx::load_shared(at)), b = uniform(ptx::load_shared(at + 16)),
              c = uniform(ptx::load_shared(at + 32)), d = uniform(ptx::load_shared(at + 48));
  __syncwarp();  // all lanes have read it
  tiles.release(lane);
  const auto number_of = [](u32 x) { return static_cast<int>(x); };
  const Side keys{static_cast<long long>(b.z | static_cast<unsigned long long>(b.w) << 32),
                  number_of(b.x), number_of(b.y)};
  tile = {{number_of(a.x), number_of(a.y), number_of(a.z), keys},
          number_of(c.x),
          number_of(c.y),
          number_of(c.z),
          number_of(c.w),
          number_of(d.x),
          number_of(d.y),
          number_of(d.z),
          number_of(d.w)};
  return a.w != 0;
}

}  // namespace fa::sm90
