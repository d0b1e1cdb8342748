#include "cuda/launch/tensor_maps.hpp"

#include <algorithm>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, int box_rows) {
  const int64_t extents[] = {columns, side.packed ? side.tokens : side.seqlen, side.heads,
                             side.packed ? 1 : batch};
  if (std::ranges::min(extents) == 0) return;
  uint64_t sizes[4], strides[3];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<uint64_t>(extents[i]);
  const int64_t elements[] = {rows.row, rows.head, rows.batch};
  for (int i = 0; i < 3; ++i) {
    // A stride that is not used may be any number, of which the driver takes few.
    strides[i] = extents[i + 1] == 1 ? 16 : static_cast<uint64_t>(2 * elements[i]);
  }
  const uint32_t box[] = {64, static_cast<uint32_t>(box_rows), 1, 1}, steps[] = {1, 1, 1, 1};
  check(driver().encode_tiled(
            &map, rows.dtype == bfloat16 ? tensor_map_type::bfloat16 : tensor_map_type::float16, 4,
            rows.data, sizes, strides, box, steps, 0, static_cast<int>(kernel::Swizzle::within_128),
            tensor_map_promotion_256, 0),
        "encoding a tensor map");
}

}  // namespace fa::cuda
