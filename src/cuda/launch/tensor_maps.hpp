// How the tensors of a call are told to the copy engine.
#pragma once

#include "kernels/common/tensor_map.h"
#include "problem/problem.hpp"

namespace fa::cuda {

/// A map of a tensor of 16-bit numbers, [column, row, head, sequence], whose boxes have 64 columns,
/// swizzled, and `box_rows` rows (1 to 256). What lies outside is read as 0. A tensor without
/// numbers has a map that no kernel may use.
kernel::TensorMap tensor_map(const Rows& rows, const Side& side, int64_t batch, int64_t columns,
                             int box_rows);

}  // namespace fa::cuda
