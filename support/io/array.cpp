#include "support/io/array.hpp"

#include <stdexcept>
#include <utility>

namespace fa::io {

std::optional<int64_t> byte_size(DType dtype, std::span<const int64_t> shape) {
  int64_t bytes = dtype.bits * dtype.lanes / 8;
  bool overflow = false;
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
    } else {
      overflow = overflow || __builtin_mul_overflow(bytes, extent, &bytes);
    }
  }
  // An empty tensor with huge other extents still has strides that would not fit: refused as well.
  if (overflow) return std::nullopt;
  return empty ? 0 : bytes;
}

Array::Array(DType dtype, std::vector<int64_t> shape) : dtype_(dtype), shape_(std::move(shape)) {
  const auto bytes = byte_size(dtype_, shape_);
  if (!bytes) throw std::bad_array_new_length();
  bytes_ = *bytes;
  data_.reset(
      static_cast<std::byte*>(::operator new[](static_cast<size_t>(bytes_), std::align_val_t{64})));
}

int64_t Array::elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape_) count *= extent;
  return count;
}

void Array::reshape(std::vector<int64_t> shape) {
  if (byte_size(dtype_, shape) != bytes_) throw std::logic_error("reshape changes the size");
  shape_ = std::move(shape);
}

Tensor Array::tensor() const {
  if (!given()) return {};
  Tensor view;
  view.data = data_.get();
  view.ndim = static_cast<int32_t>(shape_.size());
  view.dtype = dtype_;
  view.shape = shape_.data();
  return view;
}

}  // namespace fa::io
