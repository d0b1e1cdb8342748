#include "tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace judge {

namespace {
constexpr std::byte canary{0xff};
constexpr int64_t margin = 80;  // elements on either side
}  // namespace

void Tensor::create(Random& random, const Format& format, std::vector<int64_t> shape, bool plain,
                    unsigned repeatable) {
  format_ = &format;
  shape_ = std::move(shape);
  strides_.assign(shape_.size(), 1);
  const bool permute = !plain && random.chance(0.5);
  const bool gaps = !plain && random.chance(0.5);
  const bool negate = !plain && random.chance(0.3);
  const bool repeat = !plain && repeatable != 0 && random.chance(0.15);

  std::vector<size_t> order(shape_.size());  // innermost first
  std::iota(order.rbegin(), order.rend(), size_t{0});
  if (permute) {
    for (size_t n = order.size(); n > 2; --n) {
      std::swap(order[n - 1], order[1 + random.bits() % (n - 1)]);
    }
    layout_.permuted = !std::is_sorted(order.rbegin(), order.rend());
  }
  int64_t span = 1;
  int64_t below = 0;  // elements before the first
  for (size_t n = 0; n < order.size(); ++n) {
    const size_t d = order[n];
    const int64_t extent = std::max<int64_t>(shape_[d], 1);
    if (n > 0) {
      if (gaps && random.chance(0.6)) {
        span += random.integer(1, 9);
        layout_.gaps = true;
      }
      strides_[d] = span;
      if (repeat && (repeatable >> d & 1) != 0 && random.chance(0.5)) {
        strides_[d] = 0;
        layout_.repeated = true;
      } else if (negate && random.chance(0.5)) {
        strides_[d] = -span;
        below += (extent - 1) * span;
        layout_.negative = true;
      }
      if (extent == 1 && !plain) strides_[d] = random.integer(-1000, 1000);  // means nothing
    }
    if (n == 0 || strides_[d] != 0) span *= extent;
  }
  const int64_t shift = plain ? 0 : random.integer(0, 15);
  layout_.offset = shift != 0;
  first_ = margin + shift + below;
  bytes_.assign(static_cast<size_t>((span + shift + 2 * margin) * format.bytes), canary);

  const int64_t byte_offset = plain ? 0 : random.integer(0, margin) * format.bytes;
  abi_.data = bytes_.data() + first_ * format.bytes - byte_offset;
  abi_.device = {FA_CPU, 0};
  abi_.ndim = dims();
  abi_.dtype = format.code;
  abi_.shape = shape_.data();
  abi_.strides = plain && random.chance(0.5) ? nullptr : strides_.data();
  abi_.byte_offset = static_cast<uint64_t>(byte_offset);
}

int64_t Tensor::elements() const {
  return std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<>());
}

Tensor::Index Tensor::index(int64_t n) const {
  Index result{};
  for (size_t d = shape_.size(); d-- > 0;) {
    result[d] = n % shape_[d];
    n /= shape_[d];
  }
  return result;
}

int64_t Tensor::number(const Index& index) const {
  int64_t n = 0;
  for (size_t d = 0; d < shape_.size(); ++d) n = n * shape_[d] + index[d];
  return n;
}

void Tensor::read_row(const Index& i, double* to) const {
  const std::byte* from = place(i);
  const Format format = *format_;
  for (int64_t d = 0; d < columns(); ++d) to[d] = load(format, from + d * format.bytes);
}

void Tensor::write_row(const Index& i, const double* from) {
  std::byte* to = place(i);
  const Format format = *format_;
  for (int64_t d = 0; d < columns(); ++d) store(format, to + d * format.bytes, from[d]);
}

void Tensor::poison() { std::fill(bytes_.begin(), bytes_.end(), canary); }

bool Tensor::canaries_hold() const {
  std::vector<std::byte> rest = bytes_;
  for (int64_t row = 0; row < rows(); ++row) {
    std::fill_n(rest.begin() + offset_of(index(row * columns())), columns() * format_->bytes,
                canary);
  }
  return std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == canary; });
}

}  // namespace judge
