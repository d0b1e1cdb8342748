#include "reference/layout.hpp"

#include <algorithm>

#include "reference/number.hpp"

namespace fa::reference {
namespace {

/// Elements from the start of `t` to `index`.
int64_t distance(const Tensor& t, std::initializer_list<int64_t> index) {
  int64_t sum = 0;
  int64_t contiguous = 1;
  for (int32_t d = t.ndim - 1; d >= 0; --d) {
    sum += index.begin()[d] * (t.strides != nullptr ? t.strides[d] : contiguous);
    contiguous *= t.shape[d];
  }
  return sum;
}

const char* address(const Tensor& t, std::initializer_list<int64_t> index) {
  return static_cast<const char*>(t.data) + t.byte_offset + distance(t, index) * t.dtype.bits / 8;
}

}  // namespace

double element(const Tensor& t, std::initializer_list<int64_t> index) {
  return load(t.dtype, address(t, index));
}

Span Side::span(int64_t batch) const {
  Span s{batch * seqlen, seqlen, seqlen};
  if (packed) {
    s.first = static_cast<int64_t>(element(cu_seqlens, {batch}));
    s.extent = static_cast<int64_t>(element(cu_seqlens, {batch + 1})) - s.first;
    s.used = s.extent;
  }
  if (seqused.given()) s.used = static_cast<int64_t>(element(seqused, {batch}));
  return s;
}

template <typename Real>
Matrix<Real> Side::gather(const Tensor& t, int64_t batch, int64_t head, int64_t first,
                          int64_t count) const {
  Matrix<Real> rows(count, t.shape[t.ndim - 1]);
  const int64_t begin = packed ? span(batch).first : 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = begin + first + i;
    const char* p = nullptr;
    if (packed) {
      p = address(t, {row, head, 0});
    } else if (page_table.given()) {
      const auto page = static_cast<int64_t>(element(page_table, {batch, row / page_size}));
      p = address(t, {page, row % page_size, head, 0});
    } else {
      p = address(t, {batch, row, head, 0});
    }
    for (int64_t d = 0; d < rows.cols(); ++d) {
      rows[i][d] = static_cast<Real>(load(t.dtype, p + d * t.dtype.bits / 8));
    }
  }
  return rows;
}

template Matrix<float> Side::gather(const Tensor&, int64_t, int64_t, int64_t, int64_t) const;
template Matrix<double> Side::gather(const Tensor&, int64_t, int64_t, int64_t, int64_t) const;

Shapes::Shapes(const BackwardArgs& args, const Options& options) {
  const auto from_end = [](const Tensor& t, int32_t d) { return t.shape[t.ndim - d]; };
  heads_q = from_end(args.q, 2);
  heads_k = from_end(args.k, 2);
  dim = from_end(args.q, 1);
  dim_v = from_end(args.v, 1);
  rows = {options.cu_seqlens_q.given(),
          from_end(args.q, 3),
          0,
          options.cu_seqlens_q,
          options.seqused_q,
          {},
          0};
  keys = {options.cu_seqlens_k.given(),
          from_end(args.k, 3),
          0,
          options.cu_seqlens_k,
          options.seqused_k,
          {},
          0};
  if (!rows.packed) {
    batch = args.q.shape[0];
  } else {
    batch = options.cu_seqlens_q.shape[0] - 1;
  }
  if (options.page_table.given()) {
    keys.page_table = options.page_table;
    keys.page_size = args.k.shape[1];
    keys.seqlen = keys.page_size * options.page_table.shape[1];
  }
  for (Side* side : {&rows, &keys}) side->total = side->seqlen * (side->packed ? 1 : batch);
}

int64_t Shapes::lse_at(int64_t batch_index, int64_t head, int64_t i) const {
  if (rows.packed) return head * rows.total + rows.span(batch_index).first + i;
  return (batch_index * heads_q + head) * rows.seqlen + i;
}

}  // namespace fa::reference
