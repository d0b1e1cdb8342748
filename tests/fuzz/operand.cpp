#include "operand.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

namespace fa::fuzz {
namespace {

constexpr int64_t largest_extent = 4096;
constexpr int64_t largest_bytes = int64_t{1} << 20;

struct Reach {
  int64_t low = 0;  ///< first and last element
  int64_t high = -1;
};

/// Nothing where it is farther than any valid call of these tests.
std::optional<Reach> reach(const Operand& operand) {
  Reach result{0, 0};
  const auto dims = static_cast<size_t>(std::clamp(operand.ndim, 0, 8));
  int64_t dense = 1;
  for (size_t d = dims; d-- > 0;) {
    const int64_t extent = operand.shape[d];
    if (extent <= 0) return Reach{};
    if (extent > largest_extent) return std::nullopt;
    const int64_t stride = operand.strides.empty() ? dense : operand.strides[d];
    if (stride > largest_bytes || stride < -largest_bytes) return std::nullopt;
    (stride < 0 ? result.low : result.high) += (extent - 1) * stride;
    if (__builtin_mul_overflow(dense, extent, &dense)) return std::nullopt;
  }
  return result;
}

/// On the heap in just their size, so that one read too many is seen.
std::unique_ptr<int64_t[]> exact(const std::vector<int64_t>& numbers) {
  auto copy = std::make_unique<int64_t[]>(numbers.size());
  std::copy(numbers.begin(), numbers.end(), copy.get());
  return copy;
}

}  // namespace

Operand::Operand(fa_dtype dtype, std::vector<int64_t> extents)
    : dtype(dtype), shape(std::move(extents)), ndim(static_cast<int32_t>(shape.size())) {}

void Operand::allocate() {
  const auto reached = reach(*this);
  const int64_t element = (dtype.bits * dtype.lanes + 7) / 8;
  if (!reached || (reached->high - reached->low + 1) * element > largest_bytes) without_data = true;
  if (!without_data) {
    before_ = -reached->low * element;
    bytes_ = static_cast<size_t>((reached->high - reached->low + 1) * element);
    memory_ = std::make_unique<std::byte[]>(shift + bytes_);
    fill();
  }
  describe(memory_.get());
}

void Operand::allocate_in(const Operand& other) {
  allocate();
  if (without_data || shift + bytes_ > other.shift + other.bytes_) return;
  memory_ = other.memory_;
  describe(memory_.get());
}

std::vector<std::byte> Operand::contents() const {
  if (memory_ == nullptr) return {};
  const std::byte* begin = memory_.get() + shift;
  return {begin, begin + bytes_};
}

void Operand::set_contents(const std::vector<std::byte>& contents) {
  if (memory_ != nullptr) std::copy(contents.begin(), contents.end(), memory_.get() + shift);
}

void Operand::describe(std::byte* memory) {
  exact_shape_ = exact(shape);
  exact_strides_ = exact(strides);
  // As numbers: data alone need not point into the memory, only data + byte_offset does.
  const auto address = reinterpret_cast<uintptr_t>(memory) + shift + before_ - byte_offset;
  tensor_ = {without_data ? nullptr : std::bit_cast<void*>(address),
             device,
             ndim,
             dtype,
             without_shape ? nullptr : exact_shape_.get(),
             strides.empty() ? nullptr : exact_strides_.get(),
             byte_offset};
}

/// Finite numbers of every dtype: about 1 as float16 and bfloat16, and as float32.
void Operand::fill() {
  std::byte* memory = memory_.get() + shift;
  uint32_t state = 12345;
  for (size_t at = 0; at < bytes_; at += 2) {
    state = state * 1664525 + 1013904223;
    const auto number = static_cast<uint16_t>(0x3c00 | (state >> 16 & 0x83ff));
    std::memcpy(memory + at, &number, std::min<size_t>(2, bytes_ - at));
  }
  if (!numbers.empty()) std::memcpy(memory, numbers.data(), std::min(bytes_, 4 * numbers.size()));
}

}  // namespace fa::fuzz
