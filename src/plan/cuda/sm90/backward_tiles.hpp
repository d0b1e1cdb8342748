// Tiles of the sm90 backward kernel: the one home of their sizes.
#pragma once

#include "plan/cuda/gpu.hpp"
#include "problem/problem.hpp"

namespace fa::sm90 {

/// How src/kernels/sm90/backward.cuh is cut.
struct BackwardTile {
  int rows = 64;         ///< query rows of a step: 64, or 128 for head_dim 64 of Q and of V
  int key_stages = 1;    ///< tiles whose K lies in shared memory: 1 or 2
  int value_stages = 1;  ///< tiles whose V does: 1 or 2
  /// Tiles of keys that all rows see begin at different rows, so that blocks which begin together
  /// do not add to the same dQ. Not in order.
  bool rotates = false;
  /// Who adds to dQ of rows first stores, and a kernel before need not set it to 0. Not in order.
  bool first_stores = false;
  /// Or a warp of the main kernel sets the sums of dQ to 0, ahead of the groups. Not in order.
  bool clears_sums = false;

  static constexpr int groups = 2;           ///< that compute; each has its part of dQ
  static constexpr int keys = 128;           ///< of a block, 64 for each group that computes
  static constexpr int threads = 384;        ///< of a block: the loader's group and two more
  static constexpr int other_threads = 256;  ///< of one before or after the main kernel
  friend bool operator==(const BackwardTile&, const BackwardTile&) = default;
};

/// How src/kernels/sm90/wide_backward.cuh is cut, for head_dims beyond 128.
struct WideBackwardTile {
  static constexpr int rows = 64;
  bool rotates = true;               ///< as above
  bool clears_sums = false;          ///< as above
  static constexpr int cluster = 2;  ///< blocks of 64 keys, each with three groups as above
  static constexpr int keys = 128;   ///< of a cluster
  /// Two groups in each of two blocks add to columns of their own of dQ.
  static constexpr int dq_parts = 4;
  static constexpr int threads = BackwardTile::threads;
  static constexpr int other_threads = BackwardTile::other_threads;
};

WideBackwardTile wide_backward_tile(const Problem& problem);

/// Whether dO comes in two pieces, of two panels or one, of which three have a place.
constexpr bool splits_dout(int64_t head_dim_v) { return head_dim_v > 128; }

/// Columns of the sums of dQ and dK: whole panels.
int sum_columns(const WideBackwardTile& tile, int64_t head_dim);
int shared_bytes(const WideBackwardTile& tile, int64_t head_dim, int64_t head_dim_v);

/// Columns of the sums of dQ and dK. With 64 rows, each group has half of dQ's: a panel of shared
/// memory, or half of one.
int sum_columns(const BackwardTile& tile, int64_t head_dim);
int shared_bytes(const BackwardTile& tile, int64_t head_dim, int64_t head_dim_v);

/// The tile for a problem of the head_dims that the kernel serves, 64 to 128.
BackwardTile backward_tile(const Problem& problem);

}  // namespace fa::sm90
