#include "cuda/launch/tensor_maps.hpp"

#include <algorithm>
#include <initializer_list>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

namespace {

constexpr int64_t panel = kernel::panel_columns;

/// In elements of 16 bits.
struct Dimension {
  int64_t extent, stride, box;
};

void encode(kernel::TensorMap& map, char* data, int type,
            std::initializer_list<Dimension> dimensions) {
  uint64_t sizes[5], strides[5];
  uint32_t rank = 0, boxes[5], steps[5];
  for (const Dimension& d : dimensions) {
    if (d.extent == 0) return;
    sizes[rank] = static_cast<uint64_t>(d.extent);
    // A stride that is not used may be any number, of which the driver takes few.
    strides[rank] = d.extent == 1 ? 16 : static_cast<uint64_t>(2 * d.stride);
    boxes[rank] = static_cast<uint32_t>(d.box);
    steps[rank++] = 1;
  }
  check(driver().encode_tiled(&map, type, rank, data, sizes, strides + 1, boxes, steps, 0,
                              static_cast<int>(kernel::Swizzle::within_128),
                              tensor_map_promotion_256, 0),
        "encoding a tensor map");
}

}  // namespace

void make_tensor_map(kernel::TensorMap& map, const Rows& rows, const Side& side, int64_t batch,
                     int64_t columns, const Box& box) {
  const int type = rows.dtype == bfloat16 ? tensor_map_type::bfloat16 : tensor_map_type::float16;
  const Dimension row{side.packed ? side.tokens : side.seqlen, rows.row, box.rows},
      head{side.heads, rows.head, box.heads}, sequence{side.packed ? 1 : batch, rows.batch, 1},
      column{columns, 1, panel};
  if (box.heads > 1) {
    encode(map, rows.data, type, {column, head, row, sequence});
  } else if (!box.one_panel && kernel::whole_panels(static_cast<int>(columns))) {
    const Dimension panels{columns / panel, panel, columns / panel};
    encode(map, rows.data, type, {{panel, 1, panel}, row, panels, head, sequence});
  } else {
    encode(map, rows.data, type, {column, row, head, sequence});
  }
}

void make_bias_map(kernel::TensorMap& map, const Rows& bias, const Problem& p, int box_rows) {
  const int64_t halves = bytes_of(bias.dtype) / 2;
  const auto dimension = [&](int64_t extent, int64_t stride, int64_t box) {
    return Dimension{stride == 0 ? 1 : extent, stride * halves, box};
  };
  encode(map, bias.data, tensor_map_type::float16,
         {{p.k.seqlen * halves, 1, panel},
          dimension(p.q.seqlen, bias.row, box_rows),
          dimension(p.q.heads, bias.head, 1),
          dimension(p.batch, bias.batch, 1)});
}

}  // namespace fa::cuda
