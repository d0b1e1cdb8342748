// Where the rows of a sequence lie in the tensors of a call, batched or packed.
#pragma once

#include <cstdint>

#include "fa/attention.hpp"
#include "reference/matrix.hpp"

namespace fa::reference {

/// The element at `index`, which has one number for each dimension of `t`.
double element(const Tensor& t, std::initializer_list<int64_t> index);

/// One sequence on one side, queries or keys.
struct Span {
  int64_t first = 0;   ///< its first row among the rows of all sequences
  int64_t extent = 0;  ///< rows that it occupies
  int64_t used = 0;    ///< rows that count
};

/// The queries or the keys of all sequences.
struct Side {
  bool packed = false;
  int64_t seqlen = 0;  ///< of the tensor; all rows when packed
  int64_t total = 0;   ///< rows of all sequences
  Tensor cu_seqlens, seqused;
  Tensor page_table;      ///< [B, pages of a sequence], where the rows lie in pages
  int64_t page_size = 0;  ///< rows of a page

  Span span(int64_t batch) const;
  /// Rows [first, first + count) of one sequence and head of a tensor [B, S, H, width],
  /// [T, H, width] or [pages, page_size, H, width], widened.
  template <typename Real>
  Matrix<Real> gather(const Tensor& t, int64_t batch, int64_t head, int64_t first,
                      int64_t count) const;
};

/// The extents of a call.
struct Shapes {
  Shapes(const BackwardArgs& args, const Options& options);

  int64_t batch = 0;
  int64_t heads_q = 0;
  int64_t heads_k = 0;
  int64_t dim = 0;
  int64_t dim_v = 0;
  Side rows, keys;

  int64_t group() const { return heads_q / heads_k; }
  /// Where a row begins in a contiguous tensor of `width` numbers a head.
  static int64_t at(int64_t row, int64_t head, int64_t heads, int64_t width) {
    return (row * heads + head) * width;
  }
  /// Where the LSE of row i of a sequence stands in a contiguous [B, Hq, Sq] or [Hq, Tq].
  int64_t lse_at(int64_t batch_index, int64_t head, int64_t i) const;
};

}  // namespace fa::reference
