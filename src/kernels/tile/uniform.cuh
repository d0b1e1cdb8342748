// Values that all lanes of a warp have, told to the compiler: it then keeps them in the warp's
// uniform registers, from which wgmma takes its descriptors.
#pragma once

namespace fa::tile {

__device__ inline int uniform(int x) { return __shfl_sync(~0u, x, 0); }
__device__ inline unsigned uniform(unsigned x) { return __shfl_sync(~0u, x, 0); }
__device__ inline long long uniform(long long x) {
  const auto high = static_cast<long long>(uniform(static_cast<int>(x >> 32)));
  return high << 32 | uniform(static_cast<unsigned>(x));
}
__device__ inline uint4 uniform(uint4 x) {
  return {__shfl_sync(~0u, x.x, 0), __shfl_sync(~0u, x.y, 0), __shfl_sync(~0u, x.z, 0),
          __shfl_sync(~0u, x.w, 0)};
}

}  // namespace fa::tile
