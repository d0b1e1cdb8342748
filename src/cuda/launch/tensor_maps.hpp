// How the tensors of a call are told to the copy engine.
#pragma once

#include "kernels/common/tensor_map.h"
#include "problem/problem.hpp"

namespace fa::cuda {

/// What one copy brings.
struct Box {
  int rows;       ///< 1 to 256
  int heads = 1;  ///< 1 to 256; where there are more, the rows of all of them lie side by side
  bool one_panel = false;  ///< of the columns; else all panels, where these are whole
};

/// Makes a map of a tensor of 16-bit numbers as kernel::whole_panels says, whose boxes are
/// swizzled. What lies outside is read as 0. The map of a tensor without numbers is left as it is:
/// no kernel asks for it. Writes in place, because g++ 12 may put a returned TensorMap where it is
/// not aligned to 64 bytes.
void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, const Box& box);

/// The map of a bias, as of a tensor [key, row, head, sequence] of 16-bit numbers, with boxes of
/// one panel: a float32 number counts as two. Along what is broadcast it has one number.
void make_bias_map(kernel::TensorMap& map, const Rows& bias, const Problem& problem, int box_rows);

}  // namespace fa::cuda
