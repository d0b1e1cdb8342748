// The steps of a few rows over the keys that they see.
#pragma once

#include "common/mask.h"

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

}  // namespace fa::tile
