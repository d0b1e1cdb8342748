// A tensor in memory of its own, which may be permuted, have gaps, run backwards, repeat itself,
// or start anywhere. All bytes that are none of its elements are canaries.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "floats.hpp"
#include "random.hpp"

namespace judge {

// Which freedoms a layout took.
struct Layout {
  bool permuted = false;
  bool gaps = false;
  bool negative = false;
  bool offset = false;
  bool repeated = false;
};

class Tensor {
 public:
  static constexpr int max_dims = 4;
  using Index = std::array<int64_t, max_dims>;

  Tensor() = default;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  // Lays the tensor out. Dimensions whose bit is set in `repeatable` may get a stride of 0.
  void create(Random& random, const Format& format, std::vector<int64_t> shape, bool plain,
              unsigned repeatable = 0);

  [[nodiscard]] bool given() const { return format_ != nullptr; }
  [[nodiscard]] const Format& format() const { return *format_; }
  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] int dims() const { return static_cast<int>(shape_.size()); }
  [[nodiscard]] int64_t extent(int d) const { return shape_[static_cast<size_t>(d)]; }
  [[nodiscard]] int64_t elements() const;
  // The index of the nth element, row by row, and back.
  [[nodiscard]] Index index(int64_t n) const;
  [[nodiscard]] int64_t number(const Index& index) const;

  [[nodiscard]] double get(const Index& i) const { return load(*format_, place(i)); }
  void set(const Index& i, double x) { store(*format_, place(i), x); }
  // All 64 bits of an integer.
  void set_integer(const Index& i, uint64_t bits) {
    std::memcpy(place(i), &bits, static_cast<size_t>(format_->bytes));
  }
  // All numbers along the last dimension, which is dense; row r begins with element r * columns().
  [[nodiscard]] int64_t columns() const { return shape_.back(); }
  [[nodiscard]] int64_t rows() const { return elements() / std::max<int64_t>(columns(), 1); }
  void read_row(const Index& i, double* to) const;
  void write_row(const Index& i, const double* from);

  // What the C ABI takes; null for a tensor that is not given.
  [[nodiscard]] const fa_tensor* abi() const { return given() ? &abi_ : nullptr; }

  // Every byte 0xff: NaN in each floating point format.
  void poison();
  // Whether all bytes beside the elements are still as poison() and create() left them.
  [[nodiscard]] bool canaries_hold() const;
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  [[nodiscard]] int64_t offset_of(const Index& i) const {
    int64_t at = first_;
    for (size_t d = 0; d < shape_.size(); ++d) at += i[d] * strides_[d];
    return at * format_->bytes;
  }
  [[nodiscard]] const std::byte* place(const Index& i) const {
    return bytes_.data() + offset_of(i);
  }
  std::byte* place(const Index& i) { return bytes_.data() + offset_of(i); }

  const Format* format_ = nullptr;
  Layout layout_;
  std::vector<int64_t> shape_;
  std::vector<int64_t> strides_;
  int64_t first_ = 0;  // where element 0, ..., 0 lies, in elements
  std::vector<std::byte> bytes_;
  fa_tensor abi_{};
};

}  // namespace judge
