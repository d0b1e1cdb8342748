// How a CUDA device runs a backward pass: launches, workspace. Pure functions of the problem and
// the device's limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "plan/cuda/family.hpp"
#include "plan/cuda/launch.hpp"
#include "plan/cuda/sm80/backward_tiles.hpp"
#include "plan/cuda/sm90/backward_tiles.hpp"

namespace fa {

/// Bytes of each part of the workspace, in this order. The parts from dk_sum to ranges begin as 0.
/// All before the counter are multiples of its alignment.
struct BackwardWorkspace {
  int64_t dq_sum = 0;  ///< dQ in float32
  int64_t lse = 0;     ///< in powers of 2
  int64_t delta = 0;
  int64_t counter = 0;  ///< a kernel::TileCounter, where blocks that stay take tile after tile
  int64_t dk_sum = 0;   ///< dK in float32, where blocks share keys
  int64_t dv_sum = 0;
  int64_t dbias_sum = 0;  ///< where rows, or blocks, share bias
  int64_t key_turns = 0;  ///< counters, where blocks share keys
  int64_t ranges = 0;     ///< of dO's, dLSE's and V's, for float16
  int64_t dq_turns = 0;   ///< counters, where sums of dQ have an order, or who comes first stores

  int64_t zeros() const { return dk_sum + dv_sum + dbias_sum + key_turns + ranges; }
  int64_t all() const { return dq_sum + lse + delta + counter + zeros() + dq_turns; }
};

/// docs/kernels/README.md says what each of its launches does, and when.
struct CudaBackwardPlan : CudaPlan {
  BackwardKernel::Cut cut;
  std::string tile_text;
  int key_tiles = 0;   ///< of a key head, all packed sequences together
  int row_tiles = 0;   ///< of a query head
  int section = 1;     ///< parts whose tiles alternate: their Q, dO and dQ stay in L2
  int parts = 1;       ///< blocks that share a tile of keys, each with some of the query heads
  int part_heads = 1;  ///< query heads of a part
  int key_blocks = 0;  ///< key tiles of all key heads; the main kernel takes `parts` times as many
  int tiles_of_launch = 0;  ///< of keys, for each part, in one launch of the main kernel
  int row_blocks = 0;       ///< row tiles of all query heads
  /// Launches of the main kernel one after the other, for an order in which a bias's gradient is
  /// summed: of each sequence, of each head, or of each of both.
  bool by_sequence = false;
  bool by_head = false;
  int bias_rows = 0;        ///< of the bias's own extents together
  int64_t padded_rows = 0;  ///< of a query head, each sequence beginning with a tile of its own
  int64_t padded_keys = 0;  ///< of a key head
  BackwardWorkspace workspace;

  /// The kernel over tiles of keys, Algorithm 2 of the paper.
  const KernelSpec& main() const;
};

/// A tile of family sm80, or of sm90.
using FamilyBackwardTile = std::variant<BackwardTile, sm90::BackwardTile>;

/// Choices that tests and measurements may make. The plan makes those that are not given.
struct BackwardTuning {
  std::optional<FamilyBackwardTile> tile{};  ///< its family then serves
  std::optional<int> parts{};                ///< clusters of blocks have one
};

/// Throws Error (unsupported) for what CUDA devices are not offered.
CudaBackwardPlan plan_cuda_backward(const Problem& problem, const GpuLimits& gpu,
                                    const BackwardTuning& tuning = {});
std::string to_text(const CudaBackwardPlan& plan);

}  // namespace fa
