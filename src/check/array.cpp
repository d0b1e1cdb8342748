#include "check/array.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>
#include <utility>

#include "reference/number.hpp"

namespace fa::check {
namespace {

constexpr std::align_val_t alignment{64};

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

void Memory::Free::operator()(std::byte* p) const { ::operator delete(p, alignment); }

Memory::Memory(size_t bytes)
    : size_(bytes),
      data_(static_cast<std::byte*>(::operator new(std::max<size_t>(bytes, 1), alignment))),
      watched_(bytes, std::byte{0xff}) {
  poison();
}

void Memory::restore(const std::vector<std::byte>& content) {
  std::copy(content.begin(), content.end(), data_.get());
}

void Memory::poison() { std::memset(data_.get(), 0xff, size_); }

void Memory::claim(size_t begin, size_t count) {
  std::fill_n(watched_.begin() + static_cast<std::ptrdiff_t>(begin), count, std::byte{0});
}

bool Memory::intact() const {
  std::byte changed{0};
  for (size_t i = 0; i < size_; ++i) changed |= watched_[i] & ~data_.get()[i];
  return changed == std::byte{0};
}

Layout contiguous(const std::vector<int64_t>& shape) {
  Layout layout;
  layout.strides.resize(shape.size());
  layout.size = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    layout.strides[d] = layout.size;
    layout.size *= shape[d];
  }
  return layout;
}

Layout random_layout(const std::vector<int64_t>& shape, DType dtype, const LayoutKind& kind,
                     Random& random) {
  Layout layout = contiguous(shape);
  layout.null_strides = !kind.strided && random.chance(0.5);
  layout.byte_offset = random.chance(0.3);
  const int64_t sixteen_bytes = 128 / dtype.bits;
  const auto misaligned = [&] {
    if (kind.alignment == 0) return random.between(1, sixteen_bytes - 1);
    const int64_t step = std::max<int64_t>(1, kind.alignment * 8 / dtype.bits);
    return step * (2 * random.below(sixteen_bytes / step / 2) + 1);
  };
  const auto pad = [&] {
    const int64_t elements = random.chance(0.5) ? 0 : sixteen_bytes * random.between(1, 3);
    return elements + (kind.unaligned ? misaligned() : 0);
  };
  if (kind.strided) {
    // The last dimension stays the innermost; the others in any order.
    std::vector<size_t> order(shape.size() - 1);
    std::iota(order.begin(), order.end(), size_t{0});
    if (random.chance(0.6)) {
      for (size_t n = order.size(); n > 1; --n) {
        std::swap(order[n - 1], order[static_cast<size_t>(random.below(static_cast<int64_t>(n)))]);
      }
    }
    // Also rows of an odd length, such as a bias's, are aligned unless they must not be.
    const int64_t row = shape.empty() ? 1 : shape.back();
    const int64_t aligned = (row + sixteen_bytes - 1) / sixteen_bytes * sixteen_bytes;
    int64_t stride = (kind.unaligned ? row : aligned) + pad();
    for (size_t n = order.size(); n-- > 0;) {
      layout.strides[order[n]] = stride;
      stride = stride * shape[order[n]] + (random.chance(0.3) ? pad() : 0);
    }
    layout.size = 1;
    for (size_t d = 0; d < shape.size(); ++d) layout.size += (shape[d] - 1) * layout.strides[d];
    if (product(shape) == 0) layout.size = 0;
  }
  // Sometimes nothing lies around the tensor, so that a sanitizer sees what goes beyond it.
  if (random.chance(0.5)) {
    layout.offset = sixteen_bytes * random.between(0, 4);
    layout.size += layout.offset + sixteen_bytes * random.between(1, 8);
  }
  if (kind.unaligned) {
    const int64_t elements = misaligned();
    layout.offset += elements;
    layout.size += elements;
  }
  return layout;
}

Array::Array(std::vector<int64_t> shape, DType dtype, const Layout& layout)
    : Array(std::move(shape), dtype, layout,
            std::make_shared<Memory>(static_cast<size_t>(layout.size * dtype.bits / 8))) {}

Array::Array(std::vector<int64_t> shape, DType dtype, Layout layout, std::shared_ptr<Memory> memory)
    : shape_(std::move(shape)),
      dtype_(dtype),
      layout_(std::move(layout)),
      memory_(std::move(memory)) {
  for_each_row([this](int64_t, std::byte* data) {
    memory_->claim(static_cast<size_t>(data - memory_->data()),
                   static_cast<size_t>(width() * bytes()));
  });
}

int64_t Array::numel() const { return product(shape_); }

Tensor Array::tensor() const {
  Tensor t;
  if (!given()) return t;
  const int64_t offset = layout_.offset * bytes();
  t.data = memory_->data() + (layout_.byte_offset ? 0 : offset);
  t.byte_offset = static_cast<uint64_t>(layout_.byte_offset ? offset : 0);
  t.ndim = static_cast<int32_t>(shape_.size());
  t.dtype = dtype_;
  t.shape = shape_.data();
  t.strides = layout_.null_strides ? nullptr : layout_.strides.data();
  return t;
}

void Array::for_each_row(const std::function<void(int64_t, std::byte*)>& f) const {
  const int64_t rows = numel() == 0 ? 0 : numel() / width();
  for (int64_t row = 0; row < rows; ++row) {
    int64_t place = layout_.offset;
    int64_t rest = row;
    for (size_t d = shape_.size() - 1; d-- > 0;) {
      place += rest % shape_[d] * layout_.strides[d];
      rest /= shape_[d];
    }
    f(row, memory_->data() + place * bytes());
  }
}

std::vector<double> Array::values() const {
  std::vector<double> all(static_cast<size_t>(numel()));
  for_each_row([&](int64_t row, const std::byte* data) {
    for (int64_t i = 0; i < width(); ++i) {
      all[static_cast<size_t>(row * width() + i)] = reference::load(dtype_, data + i * bytes());
    }
  });
  return all;
}

void Array::fill(const std::function<double(int64_t)>& value) const {
  for_each_row([&](int64_t row, std::byte* data) {
    for (int64_t i = 0; i < width(); ++i) {
      reference::store(dtype_, data + i * bytes(), value(row * width() + i));
    }
  });
}

void Array::poison_where(const std::function<bool(int64_t)>& beyond) const {
  for_each_row([&](int64_t row, std::byte* data) {
    for (int64_t i = 0; i < width(); ++i) {
      if (beyond(row * width() + i)) std::memset(data + i * bytes(), 0xff, bytes());
    }
  });
}

}  // namespace fa::check
