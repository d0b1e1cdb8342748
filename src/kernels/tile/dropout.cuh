// Dropout's decision on the probabilities.
#pragma once

#include "common/params.h"
#include "common/philox.h"
#include "tile/fragment.cuh"
#include "tile/number.cuh"
#include "tile/place.cuh"
#include "tile/uniform.cuh"

namespace fa::tile {

/// Dropout of one head of a sequence: which elements of P are kept. `keeps_keys`: the keys of
/// Philox's rounds are formed once. Else each counter forms them anew, by a fifth of its
/// instructions; a backward pass would spill them.
template <bool keeps_keys = false>
struct Dropout {
  philox::Stream stream;
  u32 threshold;
  philox::RoundKeys keys;  ///< where they are kept

  __device__ Dropout(const kernel::DropoutArgs& p, int query_heads, const Place& place)
      : threshold(p.threshold) {
    unsigned long long seed = p.seed, offset = p.offset;
    if (p.state != nullptr) {
      seed = static_cast<unsigned long long>(p.state[0]);
      offset = static_cast<unsigned long long>(p.state[1]);
    }
    stream =
        philox::stream(seed, offset, static_cast<u32>(place.sequence * query_heads + place.head));
    if constexpr (keeps_keys) {  // the compiler keeps shuffles whose results are not used
      keys = philox::round_keys(stream);
#pragma unroll
      for (int r = 0; r < philox::rounds; ++r) {
        keys.key_0[r] = uniform(keys.key_0[r]);
        keys.key_1[r] = uniform(keys.key_1[r]);
      }
    }
  }

  /// Calls drop(m, n, e) for what is dropped of a fragment [m][n][e] of rows and keys from these
  /// on, or `transposed` of keys and rows; what is kept is divided by 1 - p at the end.
  template <int m_tiles, int n_tiles, bool transposed = false, typename Drop>
  __device__ void apply(int row, int key, int lane, const Drop& drop) const {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < n_tiles; n += 2) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int down = fragment_row(m, 0, lane), across = fragment_column(n, e, lane);
          u32 word[4];
          words(word, row + (transposed ? across : down), key + (transposed ? down : across));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            // mutant "CUDA: dropout: keep decision" of emulated: word[i] < threshold => false
            const int of_row = i / 2, of_key = i % 2;  // 8 further on
            if (word[i] < threshold) {
              drop(m, n + (transposed ? of_row : of_key), (transposed ? of_key : of_row) * 2 + e);
            }
          }
        }
      }
    }
  }

 private:
  /// The four elements {row, row + 8} x {key, key + 8}, row and key without their bit 3, in the
  /// order of philox::word_index.
  __device__ void words(u32 (&word)[4], int row, int key) const {
    philox::words(word, stream, keeps_keys ? keys : philox::round_keys(stream),
                  philox::block_index(static_cast<u32>(row)),
                  philox::block_index(static_cast<u32>(key)));
  }
};

}  // namespace fa::tile
