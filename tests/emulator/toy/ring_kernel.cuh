// The entry of ring.cuh's kernel, for whoever compiles it at run time.
#pragma once

#include "toy/ring.cuh"

extern "C" __global__ void __launch_bounds__(fa::toy::threads, 1)
    fa_toy_ring(const __grid_constant__ fa::toy::RingParams p) {
  fa::toy::multiply_by_ring<fa::toy::Fault::none>(
      p, fa::ptx::shared_address(fa::ptx::shared_memory()));
}
