// The steps of a few rows over the keys that they see.
#pragma once

#include "tile/mask.cuh"
#include "tile/place.cuh"

namespace fa::tile {

/// Steps [begin, end) whose keys some of a few rows see, and [full_begin, full_end) of them that
/// all of these rows see in full.
struct Steps {
  int begin, end, full_begin, full_end;
};

/// `first` and `last`: what the first and the last of the rows see; neither end falls between them
/// (common/mask.h). Of their keys those from `begin` to `end` count.
template <int keys>
__device__ Steps steps_between(const mask::KeyRange& first, const mask::KeyRange& last,
                               long long begin, long long end) {
  if (end <= begin) return {0, 0, 0, 0};
  return {static_cast<int>(begin / keys), static_cast<int>((end + keys - 1) / keys),
          static_cast<int>((last.begin + keys - 1) / keys), static_cast<int>(first.end / keys)};
}

/// Steps of `count` rows from `first` on, in the forward pass; `split`: number of the keys' split.
template <class C>
__device__ Steps steps_of(const kernel::ForwardParams& p, const Place& place, int k_len, int split,
                          int first, int count) {
  const auto visible = [&](int row) {
    return visible_keys<C::window_left, C::window_right>(p.window, row, place.rows.length, k_len);
  };
  int last = first + count - 1;
  if (last >= place.rows.length) last = place.rows.length - 1;
  if (last < first) return {0, 0, 0, 0};
  const auto low = visible(first), high = visible(last);
  long long begin = low.begin, end = high.end;
  if constexpr (C::split) {
    const long long first_key = static_cast<long long>(split) * p.partial.keys;
    begin = begin > first_key ? begin : first_key;
    // mutant "CUDA: end of a split" of emulated: end < first_key + p.partial.keys => true
    end = end < first_key + p.partial.keys ? end : first_key + p.partial.keys;
  }
  return steps_between<C::keys>(low, high, begin, end);
}

}  // namespace fa::tile
