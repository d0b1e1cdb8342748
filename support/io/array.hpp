// A tensor that owns its memory: what files are read into and results are written from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "fa/attention.hpp"

namespace fa::io {

/// Product of the extents times the element size; nothing when an extent is negative or the
/// product does not fit an int64_t.
std::optional<int64_t> byte_size(DType dtype, std::span<const int64_t> shape);

/// Contiguous, row major, aligned to 64 bytes. The memory is not initialized.
class Array {
 public:
  Array() = default;
  /// Throws std::bad_alloc, also when the size does not fit.
  Array(DType dtype, std::vector<int64_t> shape);

  bool given() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t elements() const;
  int64_t bytes() const { return bytes_; }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }

  /// Same elements, other extents; their product must be the same.
  void reshape(std::vector<int64_t> shape);
  /// A view that lives as long as this array is neither moved nor reshaped; not given when the
  /// array is not.
  Tensor tensor() const;

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  DType dtype_{};
  std::vector<int64_t> shape_;
  int64_t bytes_ = 0;
  std::unique_ptr<std::byte[], Free> data_;
};

}  // namespace fa::io
