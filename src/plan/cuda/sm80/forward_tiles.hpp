// Tiles of the sm80 kernels, from measurements: the one home of their sizes.
#pragma once

#include "plan/cuda/gpu.hpp"
#include "problem/problem.hpp"

namespace fa {

/// How src/kernels/sm80/forward.cuh is cut. Its head says what each number does.
struct ForwardTile {
  int warps = 4;
  int warp_rows = 32;    ///< query rows of a warp: 16 or 32
  int keys = 32;         ///< of a step, a multiple of 16
  int groups = 1;        ///< of warps that take turns: 1 or 2
  int stages = 2;        ///< steps whose K and V lie in shared memory: groups + 1 or more
  int query_slices = 0;  ///< slices of 16 columns of Q that stay in registers
  int min_blocks = 1;    ///< of a multiprocessor, which bounds the registers
  bool stale_maximum = true;
  int value_slices = 1;  ///< pieces of V's head_dim, each with a block of its own

  int rows() const { return warps * warp_rows; }
  friend bool operator==(const ForwardTile&, const ForwardTile&) = default;
};

/// Columns of V that one block works on, a multiple of 8; those of the last slice end where V does.
int value_columns(const ForwardTile& tile, int64_t head_dim_v);
int shared_bytes(const ForwardTile& tile, int64_t head_dim, int64_t head_dim_v);
/// Registers of a thread for O, S, P, Q and the statistics of its rows. Addresses and operands take
/// more, which only ptxas can tell.
int registers(const ForwardTile& tile, int64_t head_dim_v);
/// The most that a thread may have, so that `min_blocks` of them fit a multiprocessor.
int register_limit(const ForwardTile& tile);
/// Whether a multiprocessor has the shared memory of `min_blocks` of them.
bool fits(const ForwardTile& tile, int64_t head_dim, int64_t head_dim_v, const GpuLimits& gpu);

/// The best measured tile that fits the GPU. Throws Error (unsupported) where none does.
ForwardTile forward_tile(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa
