// The places of a ring in shared memory, which steps take in turn.
#pragma once

namespace fa::tile {

/// A place is known by its first byte, counted from the first place.
template <int places, int place_bytes>
struct Ring {
  static constexpr unsigned bytes = places * place_bytes;

  static __device__ unsigned after(unsigned place) {
    return place == bytes - place_bytes ? 0 : place + place_bytes;
  }
  static __device__ unsigned before(unsigned place) {
    return place == 0 ? bytes - place_bytes : place - place_bytes;
  }
};

}  // namespace fa::tile
