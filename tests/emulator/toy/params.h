// What the toy kernels are given, on host and device.
#pragma once

#include "common/tensor_map.h"

namespace fa::toy {

/// C [rows x columns] in float32; A [rows x depth] and B [depth x columns] in bfloat16, row by row.
struct RingParams {
  kernel::TensorMap a;  ///< boxes of tile_rows x slice, rows of 128 bytes, swizzled
  kernel::TensorMap b;  ///< boxes of slice x panel
  kernel::TensorMap c;  ///< boxes of group_rows x 32
  int slices;           ///< of depth, the last filled with zeros
};

inline constexpr int stages = 3;
inline constexpr int groups = 2;                    ///< of consumers
inline constexpr int threads = 128 * (1 + groups);  ///< the producer's group comes first
inline constexpr int group_rows = 64;
inline constexpr int tile_rows = group_rows * groups;
inline constexpr int tile_columns = 128;
inline constexpr int slice = 64;  ///< of depth, in a stage
inline constexpr int panel = 64;  ///< columns of B in 128 bytes
inline constexpr int a_bytes = 2 * tile_rows * slice;
inline constexpr int panel_bytes = 2 * slice * panel;
inline constexpr int b_bytes = panel_bytes * tile_columns / panel;
inline constexpr int stage_bytes = a_bytes + b_bytes;
inline constexpr int c_box_bytes = 128 * group_rows;  ///< 32 columns
inline constexpr int c_boxes = tile_columns / 32;     ///< of a group
inline constexpr int barrier_bytes = 1024;            ///< the stages begin at a multiple of 1024
inline constexpr int shared_bytes =
    barrier_bytes + stages * stage_bytes + groups * c_boxes * c_box_bytes;

inline constexpr int exchange_threads = 64;
inline constexpr int exchange_box[] = {4, 8, 8};  ///< of `in` and `added`, innermost first
inline constexpr int exchange_numbers = 256;
inline constexpr int exchange_shared_bytes = 8192;

/// All numbers are float32; blocks b and b ^ 1 are a cluster.
struct ExchangeParams {
  kernel::TensorMap in;     ///< [blocks][8][8][4]
  kernel::TensorMap added;  ///< the same: the other block's `in` is added
  const float* plain;       ///< [blocks][exchange_numbers]
  float* sums;              ///< the same: the other block's `in` is added
  float* copied;            ///< the same: the other block's `plain`
  float* firsts;            ///< [blocks][4]: the first of the other block's `plain`
};

}  // namespace fa::toy
