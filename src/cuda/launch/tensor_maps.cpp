#include "cuda/launch/tensor_maps.hpp"

#include <algorithm>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, int box_rows, bool by_panel) {
  struct Dimension {
    int64_t extent, stride, box;
  };
  constexpr int64_t panel = kernel::panel_columns;
  const Dimension row{side.packed ? side.tokens : side.seqlen, rows.row, box_rows},
      head{side.heads, rows.head, 1}, sequence{side.packed ? 1 : batch, rows.batch, 1};
  uint64_t sizes[5], strides[5];
  uint32_t rank = 0, box[5], steps[5];
  const auto add = [&](const Dimension& d) {
    sizes[rank] = static_cast<uint64_t>(d.extent);
    // A stride that is not used may be any number, of which the driver takes few.
    strides[rank] = d.extent == 1 ? 16 : static_cast<uint64_t>(2 * d.stride);
    box[rank] = static_cast<uint32_t>(d.box);
    steps[rank++] = 1;
  };
  const bool panels = !by_panel && kernel::whole_panels(static_cast<int>(columns));
  add({panels ? panel : columns, 1, panel});
  add(row);
  if (panels) add({columns / panel, panel, columns / panel});
  add(head);
  add(sequence);
  if (std::find(sizes, sizes + rank, 0u) != sizes + rank) return;
  check(driver().encode_tiled(
            &map, rows.dtype == bfloat16 ? tensor_map_type::bfloat16 : tensor_map_type::float16,
            rank, rows.data, sizes, strides + 1, box, steps, 0,
            static_cast<int>(kernel::Swizzle::within_128), tensor_map_promotion_256, 0),
        "encoding a tensor map");
}

}  // namespace fa::cuda
