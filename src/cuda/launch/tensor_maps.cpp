#include "cuda/launch/tensor_maps.hpp"

#include <vector>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, int box_rows) {
  struct Dimension {
    int64_t extent, stride, box;
  };
  constexpr int64_t panel = kernel::panel_columns;
  const Dimension row{side.packed ? side.tokens : side.seqlen, rows.row, box_rows},
      head{side.heads, rows.head, 1}, sequence{side.packed ? 1 : batch, rows.batch, 1};
  std::vector<Dimension> all{{columns, 1, panel}, row, head, sequence};
  if (kernel::whole_panels(static_cast<int>(columns))) {
    const int64_t panels = columns / panel;
    all = {{panel, 1, panel}, row, {panels, panel, panels}, head, sequence};
  }
  std::vector<uint64_t> sizes, strides;
  std::vector<uint32_t> box;
  for (const Dimension& d : all) {
    if (d.extent == 0) return;
    sizes.push_back(static_cast<uint64_t>(d.extent));
    // A stride that is not used may be any number, of which the driver takes few.
    strides.push_back(d.extent == 1 ? 16 : static_cast<uint64_t>(2 * d.stride));
    box.push_back(static_cast<uint32_t>(d.box));
  }
  const std::vector<uint32_t> steps(all.size(), 1);
  check(driver().encode_tiled(
            &map, rows.dtype == bfloat16 ? tensor_map_type::bfloat16 : tensor_map_type::float16,
            static_cast<uint32_t>(all.size()), rows.data, sizes.data(), strides.data() + 1,
            box.data(), steps.data(), 0, static_cast<int>(kernel::Swizzle::within_128),
            tensor_map_promotion_256, 0),
        "encoding a tensor map");
}

}  // namespace fa::cuda
