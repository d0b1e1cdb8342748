#include "cuda/launch/tensor_maps.hpp"

#include <algorithm>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, const Box& box) {
  struct Dimension {
    int64_t extent, stride, box;
  };
  constexpr int64_t panel = kernel::panel_columns;
  const Dimension row{side.packed ? side.tokens : side.seqlen, rows.row, box.rows},
      head{side.heads, rows.head, box.heads}, sequence{side.packed ? 1 : batch, rows.batch, 1};
  uint64_t sizes[5], strides[5];
  uint32_t rank = 0, boxes[5], steps[5];
  const auto add = [&](const Dimension& d) {
    sizes[rank] = static_cast<uint64_t>(d.extent);
    // A stride that is not used may be any number, of which the driver takes few.
    strides[rank] = d.extent == 1 ? 16 : static_cast<uint64_t>(2 * d.stride);
    boxes[rank] = static_cast<uint32_t>(d.box);
    steps[rank++] = 1;
  };
  if (box.heads > 1) {
    for (const Dimension& d : {Dimension{columns, 1, panel}, head, row, sequence}) add(d);
  } else if (!box.one_panel && kernel::whole_panels(static_cast<int>(columns))) {
    const Dimension panels{columns / panel, panel, columns / panel};
    for (const Dimension& d : {Dimension{panel, 1, panel}, row, panels, head, sequence}) add(d);
  } else {
    for (const Dimension& d : {Dimension{columns, 1, panel}, row, head, sequence}) add(d);
  }
  if (std::find(sizes, sizes + rank, 0u) != sizes + rank) return;
  check(driver().encode_tiled(
            &map, rows.dtype == bfloat16 ? tensor_map_type::bfloat16 : tensor_map_type::float16,
            rank, rows.data, sizes, strides + 1, boxes, steps, 0,
            static_cast<int>(kernel::Swizzle::within_128), tensor_map_promotion_256, 0),
        "encoding a tensor map");
}

}  // namespace fa::cuda
