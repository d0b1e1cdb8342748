// A warp group that computes: 64 query rows of each of the block's tiles, Algorithm 1 of
// FlashAttention-2 (Dao 2023, arXiv:2307.08691).
#pragma once

#include "common/flag.h"
#include "ptx/barrier.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "sm90/forward_shapes.cuh"
#include "tile/dropout.cuh"
#include "tile/form_scores.cuh"
#include "tile/group_product.cuh"
#include "tile/output.cuh"
#include "tile/score.cuh"
#include "tile/softmax.cuh"
#include "tile/store_fragment.cuh"
#include "tile/uniform.cuh"

namespace fa::sm90 {

using kernel::Flag;

template <class C>
struct ForwardGroup {
  using Shapes = ForwardShapes<C>;
  using Element = Format<C::element>;
  static constexpr int n_tiles = C::keys / 8;
  static constexpr int o_tiles = Shapes::width / 8;
  using Scores = float[1][n_tiles][4];
  using Softmax = OnlineSoftmax<Element, 1>;
  using Dropping = Dropout<C::dropout>;

  const kernel::ForwardParams& p;
  const kernel::SideBySide& side_by_side;
  const kernel::TensorMap* out_map;
  u32 out;  ///< the warp's rows on their way to memory
  int group;
  int warp;  ///< in the group
  const int lane = threadIdx.x % 32;
  ForwardPipes<C> pipes;
  const PanelOperand<typename Shapes::QueryTile, kernel::Major::k> query;
  const PanelOperand<typename Shapes::KeyTile, kernel::Major::k> key;
  const PanelOperand<typename Shapes::ValueTile, kernel::Major::mn> value;
  const float factor;

  TileInHand tile;
  Steps own;  ///< of the group's rows
  float o[1][o_tiles][4];
  KeptSlices<n_tiles / 2, 1> probabilities;  ///< P of the last step, as operand A
  Softmax softmax;
  bool unseen;  ///< some row of the warp has not seen a key

  /// `block_warp`: the warp's number in the block.
  __device__ ForwardGroup(const kernel::TiledForwardParams& params, u32 base, int block_warp)
      : p(params.forward),
        side_by_side(params.side_by_side),
        out_map(&params.out),
        out(base + Shapes::out_begin + (block_warp - 4) * Shapes::OutTile::bytes),
        group(block_warp / 4 - 1),
        warp(block_warp % 4),
        pipes(base),
        query(base + group * Shapes::group_rows * Shapes::QueryTile::row_bytes),
        key(pipes.k.memory),
        value(pipes.v.memory),
        factor(Score<C>::factor(params.forward.score)) {}

  __device__ void run() {
    if (C::turns && group == C::groups - 1) pass_turn();  // group 0 begins
    bool rows_due = false;    // the rows of the tile before have not been stored
    bool values_due = false;  // nor has their last product with V begun
    TileInHand before;
    for (;;) {
      const bool more = take_tile();
      const bool sees = own.begin < own.end;
      // With one place for Q, the next Q comes too late to wait for it.
      constexpr bool ahead = C::query_stages > 1;
      const bool at_once = ahead && sees && own.end == tile.end;
      Scores s;
      if (values_due && !at_once) multiply<true, false>(s);
      if (!ahead && rows_due) finish(before);
      // V of the last step that is passed by may come after the first product.
      const bool values_later = own.end < tile.end;
      for (int step = tile.end; step > own.end + 1; --step) {
        pass_by_keys();
        pass_by_values();
      }
      if (values_later) pass_by_keys();
      const Score<C> score(p.score, tile.place, tile.k_len);
      const Dropping dropout(p.dropout, p.heads.query, tile.place);
      Softmax first;
      if (sees) {
        pipes.q.wait_until_full();
        const auto begin = [&] { exponentiate_first(s, first, score); };
        if (values_due && at_once) {
          multiply<true, true>(s, begin);
        } else {
          multiply<false, true>(s, begin);
        }
      }
      if (ahead && rows_due) finish(before);
      if (!more) break;
      clear(o);
      softmax = first;
      unseen = !sees || __any_sync(~0u, softmax.has_unseen());
      before = tile;
      rows_due = true;
      if (sees) {
        probabilities = as_left<Element>(s);
        drop(own.end - 1, dropout);
      }
      if (values_later) pass_by_values();
      int step = own.end - 2;
      const auto steps_to = [&](int end, auto may_mask) {
        for (; step >= own.begin && step >= end; --step) {
          multiply<true, true>(s);
          exponentiate<may_mask.value>(s, step, score);
          drop(step, dropout);
        }
      };
      steps_to(own.full_end, Flag<true>());
      steps_to(own.full_begin, Flag<false>());
      if constexpr (C::window_left) steps_to(own.begin, Flag<true>());
      if (tile.begin < tile.end) {
        // Also where it is not read: a warp that lets a phase go by takes the next one for passed.
        if (!sees) pipes.q.wait_until_full();
        pipes.q.release(lane);
      }
      values_due = sees;
      if (own.begin > tile.begin) {
        multiply<true, false>(s);
        values_due = false;
        for (step = own.begin; step > tile.begin; --step) {
          pass_by_keys();
          pass_by_values();
        }
      }
    }
    if (C::turns && group == 0) take_turn();  // no group is left there
    if constexpr (C::staged_out) ptx::bulk_wait_read<0>();
  }

  /// Reads the next tile and the group's steps in it: none at the end, where it is false.
  __device__ bool take_tile() {
    pipes.tiles.wait_until_full();
    const u32 at = pipes.tiles.stage();
    const uint4 a = uniform(ptx::load_shared(at)), b = uniform(ptx::load_shared(at + 16)),
                c = uniform(ptx::load_shared(at + 32)),
                d = uniform(ptx::load_shared(at + 48 + 16 * group));
    __syncwarp();  // all lanes have read it
    pipes.tiles.release(lane);
    const auto begin = static_cast<long long>(b.x | static_cast<unsigned long long>(b.y) << 32);
    tile = {
        {static_cast<int>(a.x),
         static_cast<int>(a.y),
         static_cast<int>(a.z),
         {begin, static_cast<int>(b.z), static_cast<int>(b.w)}},
        static_cast<int>(c.x),
        static_cast<int>(c.y),
        static_cast<int>(c.z),
        static_cast<int>(c.w),
        {static_cast<int>(c.w & 0xffff), static_cast<int>(c.w >> 16), static_cast<int>(a.w) - 1}};
    own = {static_cast<int>(d.x), static_cast<int>(d.y), static_cast<int>(d.z),
           static_cast<int>(d.w)};
    return a.w != 0;
  }

  // Groups take turns: while one exponentiates, another one's products have the tensor cores. Each
  // group has as many turns as the tile has steps.
  __device__ void take_turn() const {
    if constexpr (C::turns) ptx::barrier_sync<256>(1 + group);
  }
  __device__ void pass_turn() const {
    if constexpr (C::turns) ptx::barrier_arrive<256>(group == C::groups - 1 ? 1 : 2 + group);
  }

  /// A turn: S = Q K^T of a step (line 8), beside O += P V of the step before it (line 10).
  /// between(): once S is there, and O is not yet.
  template <bool values, bool scores, typename Between>
  __device__ void multiply(Scores& s, const Between& between) {
    if constexpr (scores) {
      pipes.k.wait_until_full();
      take_turn();
      ptx::wgmma_fence(s[0], o[0]);
      begin_product<C::element, Shapes::depth / 16>(s[0], query, pipes.q.offset, key,
                                                    pipes.k.offset);
    }
    if constexpr (values) {
      pipes.v.wait_until_full();
      ptx::wgmma_fence(o[0]);
      begin_product<C::element>(o[0], probabilities, value, pipes.v.offset);
    }
    if constexpr (scores) {
      pass_turn();
      ptx::wgmma_wait<values ? 1 : 0>(s[0]);
      pipes.k.release(lane);
    }
    between();
    if constexpr (values) {
      ptx::wgmma_wait<0>(o[0]);
      pipes.v.release(lane);
    }
  }
  template <bool values, bool scores>
  __device__ void multiply(Scores& s) {
    multiply<values, scores>(s, [] {});
  }

  // K and V of steps of which the group's rows see nothing: other groups' do.
  __device__ void pass_by_keys() {
    take_turn();
    pass_turn();
    pipes.k.wait_until_full();
    pipes.k.release(lane);
    if constexpr (C::bias_stages > 0) {
      pipes.bias.wait_until_full();
      pipes.bias.release(lane);
    }
  }
  __device__ void pass_by_values() {
    pipes.v.wait_until_full();
    pipes.v.release(lane);
  }

  __device__ auto warp_rows(const TileInHand& of) const {
    const int first = group * Shapes::group_rows + 16 * warp;
    if constexpr (C::side_by_side) {
      return SideBySideRows{of.place, first, side_by_side};
    } else {
      return TileRows{of.place, first};
    }
  }

  /// Products become scores, of which a step at a mask's edge hides some.
  template <bool may_mask>
  __device__ void form(Scores& s, int step, const Score<C>& score) {
    if constexpr (C::bias_stages > 0) {
      using Tile = Shapes::BiasTile;
      const int first_row = C::bias_per_row ? group * Shapes::group_rows + 16 * warp : 0;
      pipes.bias.wait_until_full();
      form<may_mask>(s, step, score,
                     BiasInTile<C, Tile, C::bias_per_row>(
                         pipes.bias.stage() + first_row * Tile::row_bytes, lane, score.rows));
      __syncwarp();  // all lanes have read it
      pipes.bias.release(lane);
    } else {
      form<may_mask>(s, step, score, BiasInMemory<C>{score});
    }
  }
  template <bool may_mask, typename Bias>
  __device__ void form(Scores& s, int step, const Score<C>& score, const Bias& bias) const {
    const auto rows = warp_rows(tile);
    const int first = step * C::keys;
    const auto visible = [&](int i) {
      return visible_keys<C::window_left, C::window_right>(p.window, i, tile.place.rows.length,
                                                           tile.k_len);
    };
    if (may_mask && (step >= own.full_end || step < own.full_begin)) {
      form_scores<C, true>(s, score, rows, first, lane, visible, bias);
    } else if constexpr (!Score<C>::none) {
      form_scores<C, false>(s, score, rows, first, lane, visible, bias);
    }
  }

  /// S := P of a tile's first step (line 9), with its own maximum.
  __device__ void exponentiate_first(Scores& s, Softmax& first, const Score<C>& score) {
    form<true>(s, own.end - 1, score);
    first.begin(s, factor);
  }

  /// P = exp(S - m) with the running maximum and sum (line 9). Without a mask nothing stands
  /// between the waits of the turn and the exponentials, so that the compiler begins these while
  /// the product with V is under way.
  template <bool may_mask>
  __device__ void exponentiate(Scores& s, int step, const Score<C>& score) {
    constexpr bool rises = C::alibi_rises && !may_mask;  // then S may stay the product
    if constexpr (!rises) form<may_mask>(s, step, score);
    float added[1][2];
    if (may_mask && unseen) renew_maximum(s);
    if constexpr (rises) {
      probabilities = rising_probabilities(s, step, score, added);
    } else {
      probabilities = softmax.probabilities(s, added, factor);
    }
    const bool beyond = __any_sync(~0u, softmax.beyond(added, Element::largest_p));
    if (beyond || (!may_mask && unseen)) {  // rare: with the true maximum
      if constexpr (rises) form<false>(s, step, score);
      renew_maximum(s);
      probabilities = softmax.probabilities(s, added, factor);
    }
    softmax.add(added);
  }
  /// P of products whose scores ALiBi raises from key to key: the exponent's multiply-add gets what
  /// it adds, too.
  __device__ auto rising_probabilities(const Scores& s, int step, const Score<C>& score,
                                       float (&added)[1][2]) const {
    const int lane_key = step * C::keys + fragment_column(0, 0, lane);
    float first[2];  // of the lane's first key
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int distance = warp_rows(tile)(fragment_row(0, h, lane)).row + score.shift - lane_key;
      first[h] = fmaf(-score.slope_of_distance, static_cast<float>(distance), softmax.shift(0, h));
    }
    return softmax.probabilities_of(s, added, [&](float x, int, int h, int n, int e) {
      const auto keys_on = static_cast<float>(fragment_column(n, e, 0));
      return fmaf(x, score.scale, fmaf(score.slope_of_distance, keys_on, first[h]));
    });
  }
  __device__ void drop(int step, const Dropping& dropout) {
    if constexpr (C::dropout) {
      const int row = warp_rows(tile)(0).row;
      dropout.template apply<1, n_tiles>(row, step * C::keys, lane, [&](int, int n, int e) {
        probabilities.slice[n / 2][0][n % 2 * 2 + e / 2] &= e % 2 ? 0xffffu : 0xffff0000u;
      });
    }
  }
  __device__ void renew_maximum(const Scores& s) {
    softmax.update_maximum(s, o, factor);
    unseen = __any_sync(~0u, softmax.has_unseen());
  }

  /// O := O / l and LSE, to memory (lines 12 to 15).
  __device__ void finish(const TileInHand& of) {
    const auto rows = warp_rows(of);
    const bool partial = C::split || (C::shares && !of.sharers.alone());
    end_rows<C>(p, of.place, rows, lane, softmax, o, partial, [&](HeadRow at, float lse) {
      if (partial) {
        p.partial.lse[partial_row(of, at)] = lse;
      } else {
        store_lse(p, of.place, at, lse);
      }
    });
    if (partial) {
      store_partial<C, C::head_dim_v>(p.partial, of.place, rows, 0, lane, o,
                                      [&](HeadRow at) { return partial_row(of, at); });
      return;
    }
    const auto x = as_left<Element>(o);
    if constexpr (C::staged_out && C::alignment == 16) {
      const int first = rows(0).row;
      if (first + 16 <= of.place.rows.extent) {  // else it would write the next sequence's rows
        store_box(x, of.place, first);
        return;
      }
    }
    store_fragment<C::head_dim_v, C::alignment>(x, lane, [&](int i) -> char* {
      const HeadRow at = rows(i);
      if (at.row >= of.place.rows.extent) return nullptr;
      return const_cast<char*>(
          row_of(p.operands.out, of.place, at.head, of.place.rows.begin + at.row));
    });
  }
  /// Of a tile of which the block has a part.
  __device__ long long partial_row(const TileInHand& of, HeadRow at) const {
    if constexpr (C::shares) {
      const int heads = C::side_by_side ? side_by_side.heads.value : 1;
      return of.sharers.place() * p.partial.rows + (at.row - of.place.row) * heads + at.head -
             of.place.head;
    } else {
      return split_row<C>(p, of.place, of.split, at);
    }
  }
  /// The copy is under way until the warp stores its next rows.
  __device__ void store_box(const KeptSlices<o_tiles / 2, 1>& x, const Place& place, int first) {
    using Tile = Shapes::OutTile;
    ptx::bulk_wait_read<0>();
    __syncwarp();
    Tile::put(out, x, lane);
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      Tile::store(out, out_map, static_cast<int>(place.rows.begin) + first, place.head,
                  C::packed_q ? 0 : place.sequence);
      ptx::bulk_commit();
    }
  }
};

}  // namespace fa::sm90
