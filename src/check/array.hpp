// Tensors of a random problem: strided views of memory whose every other byte is watched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "check/random.hpp"
#include "fa/attention.hpp"

namespace fa::check {

/// Bytes that belong to tensors, and bytes that do not. All begin as 0xff, which is a NaN in every
/// float type: the canary of outputs, and poison for what is read by mistake.
class Memory {
 public:
  explicit Memory(size_t bytes);
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data_.get(), size_}; }
  /// From now on these bytes belong to a tensor.
  void claim(size_t begin, size_t count);
  /// No byte outside of tensors has changed.
  bool intact() const;
  /// A copy of all bytes.
  std::vector<std::byte> content() const { return {data_.get(), data_.get() + size_}; }
  void restore(const std::vector<std::byte>& content);
  void poison();

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  size_t size_;
  std::unique_ptr<std::byte, Free> data_;
  std::vector<std::byte> watched_;  ///< 0xff for each byte of no tensor
};

/// The places of a tensor's elements: strides and the first element's place, in elements.
struct Layout {
  std::vector<int64_t> strides;
  int64_t offset = 0;  ///< from the memory's begin
  int64_t size = 0;    ///< of the memory
  bool null_strides = false;
  bool byte_offset = false;  ///< the offset is told as Tensor::byte_offset, not in the pointer
};

Layout contiguous(const std::vector<int64_t>& shape);
/// The kind of a random layout.
struct LayoutKind {
  bool strided = false;    ///< dimensions in a random order in memory, gaps between rows
  bool unaligned = false;  ///< rows begin at odd elements
  int32_t alignment = 0;   ///< or, unless 0, at odd multiples of so many bytes (2, 4 or 8)
};
/// Sometimes with room around everything.
Layout random_layout(const std::vector<int64_t>& shape, DType dtype, const LayoutKind& kind,
                     Random& random);

/// A tensor that owns its shape and strides and shares its memory.
class Array {
 public:
  Array() = default;
  Array(std::vector<int64_t> shape, DType dtype, const Layout& layout);
  /// Part of `memory`, which other tensors lie in as well.
  Array(std::vector<int64_t> shape, DType dtype, Layout layout, std::shared_ptr<Memory> memory);

  bool given() const { return memory_ != nullptr; }
  /// Empty when not given.
  Tensor tensor() const;
  const std::vector<int64_t>& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  int64_t numel() const;
  Memory& memory() const { return *memory_; }

  /// Calls f(row, bytes) for the rows along the last dimension, in the order of a contiguous
  /// tensor.
  void for_each_row(const std::function<void(int64_t row, std::byte* data)>& f) const;
  /// All elements, in the order of a contiguous tensor.
  std::vector<double> values() const;
  /// Sets element n, in the same order, to value(n).
  void fill(const std::function<double(int64_t n)>& value) const;
  /// Makes element n a NaN where beyond(n).
  void poison_where(const std::function<bool(int64_t n)>& beyond) const;

 private:
  int64_t width() const { return shape_.empty() ? 1 : shape_.back(); }
  int64_t bytes() const { return dtype_.bits / 8; }

  std::vector<int64_t> shape_;
  DType dtype_{};
  Layout layout_;
  std::shared_ptr<Memory> memory_;
};

/// A one-dimensional tensor of integers.
template <typename Int>
class IntArray {
 public:
  IntArray() = default;
  explicit IntArray(std::vector<Int> values)
      : values_(std::move(values)), shape_{static_cast<int64_t>(values_.size())} {}
  Tensor tensor() const {
    Tensor t;
    t.data = const_cast<Int*>(values_.data());
    t.ndim = 1;
    t.dtype = sizeof(Int) == 8 ? int64 : int32;
    t.shape = &shape_;
    return t;
  }
  std::span<std::byte> memory() const {
    return std::as_writable_bytes(std::span(const_cast<Int*>(values_.data()), values_.size()));
  }

 private:
  std::vector<Int> values_;
  int64_t shape_ = 0;
};

}  // namespace fa::check
