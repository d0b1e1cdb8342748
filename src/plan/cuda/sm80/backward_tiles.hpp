// Tiles of the sm80 backward kernel: the one home of their sizes.
#pragma once

#include "plan/cuda/gpu.hpp"
#include "problem/problem.hpp"

namespace fa {

/// How src/kernels/sm80/backward.cuh is cut. Its head says what each number does.
struct BackwardTile {
  int warps = 4;
  int rows = 64;            ///< query rows of a step
  int keys = 64;            ///< of a block
  int row_warps = 2;        ///< that share the rows of S and dP; the others share the keys
  int sum_warps = 1;        ///< that have the same part of S and dP, and share these sums' columns
  int column_warps = 2;     ///< that share the columns of dK and dV, where these can be shared
  int stages = 2;           ///< steps whose Q and dO lie in shared memory: 1 or 2
  int query_parts = 1;      ///< of dQ's columns, one after the other: 1 or 2
  bool query_last = false;  ///< dQ after dV and dK, else its additions in between; last in order
  int key_slices = 0;       ///< slices of 16 columns of K that stay in registers
  int value_slices = 0;     ///< and of V
  int min_blocks = 1;       ///< of a multiprocessor, which bounds the registers
  friend bool operator==(const BackwardTile&, const BackwardTile&) = default;
};

/// Columns of Q and K, or of V and dO, that the kernel works on: head_dim, padded so that the warps
/// can share them.
int padded_columns(const BackwardTile& tile, int64_t head_dim);
int shared_bytes(const BackwardTile& tile, int64_t head_dim, int64_t head_dim_v);
bool fits(const BackwardTile& tile, int64_t head_dim, int64_t head_dim_v, const GpuLimits& gpu);

/// The best tile that fits the GPU. Throws Error (unsupported) where none does.
BackwardTile backward_tile(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa
