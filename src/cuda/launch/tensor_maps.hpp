// How the tensors of a call are told to the copy engine.
#pragma once

#include "kernels/common/tensor_map.h"
#include "problem/problem.hpp"

namespace fa::cuda {

/// Makes a map of a tensor of 16-bit numbers as kernel::whole_panels says, whose boxes are swizzled
/// and have `box_rows` rows (1 to 256); `by_panel`: but of one panel, whatever the columns. What
/// lies outside is read as 0. The map of a tensor without numbers is left as it is: no kernel asks
/// for it. Writes in place, because g++ 12 may put a returned TensorMap where it is not aligned to
/// 64 bytes.
void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, int box_rows, bool by_panel = false);

}  // namespace fa::cuda
