// The SIMD kernels that the drivers (forward.cpp, backward.cpp, merge.cpp) call: one set of
// functions for each instruction set.
#pragma once

#include <cstdint>

#include "plan/cpu/plan.hpp"
#include "problem/problem.hpp"

namespace fa::cpu {

/// A row's largest score, and its sum of exp(score - maximum).
struct RowSum {
  float maximum;
  float sum;
};

/// Where a tile's result goes when its keys are one of several chunks. O lies in rows of
/// padded(head_dim_v), not yet divided by the row's sum. That sum is kept without the sink and not
/// as an LSE, which would lose digits. The key heads' places follow one another.
struct PartialOutputs {
  float* out = nullptr;
  RowSum* sum = nullptr;
  int64_t width = 0;
  int64_t rows = 1;         ///< of the tile, that belong to one key head
  int64_t head_stride = 0;  ///< between key heads, in floats; even

  struct Row {
    float* out;
    RowSum* sum;
  };
  Row row(int64_t r) const {
    const int64_t head = r / rows * head_stride;
    return {out + head + r % rows * width, sum + head / 2 + r % rows};
  }
};

/// One tile of query rows against keys [key_begin, key_end) of their key head. In place, the kernel
/// reads K and V where they lie, and the tile may have the query heads of several key heads.
struct ForwardTile {
  const CpuPlan& plan;
  const Call& call;
  const Sequence& sequence;
  int64_t head_k;
  int64_t heads_k;  ///< from head_k on
  Tile tile;
  int64_t key_begin;
  int64_t key_end;
  bool in_place;
  const float* packed;  ///< the key head's packed blocks, or null: in place, or pack into scratch
  PartialOutputs partial;  ///< or none: results go to the call's outputs
};

struct ForwardKernels {
  void (*pack)(const CpuPlan& plan, const Call& call, const Sequence& sequence, int64_t head_k,
               int64_t block, float* packed);
  void (*tile)(const ForwardTile& task, const ForwardScratch& scratch);
  /// Joins the chunks of a key head; the partial results lie one behind the other.
  void (*combine)(const CpuPlan& plan, const Call& call, const Sequence& sequence, int64_t head_k,
                  int64_t chunks, const float* partial_out, const RowSum* partial_sums,
                  const ForwardScratch& scratch);
  /// Rows of one head that two attentions over disjoint keys give together.
  void (*merge)(const MergeCall& call, int64_t batch, int64_t head);
};
const ForwardKernels& forward_kernels();

/// Keys [key_begin, key_end) of one key head, against all rows of its query heads.
struct BackwardItem {
  const CpuPlan& plan;
  const Call& call;
  const Sequence& sequence;
  int64_t head_k;
  int64_t key_begin;
  int64_t key_end;
  int64_t chunk;
};

struct BackwardKernels {
  /// delta of one query head's rows.
  void (*delta)(const CpuPlan& plan, const Call& call, const Sequence& sequence, int64_t head,
                const BackwardShared& shared, const BackwardScratch& scratch);
  void (*item)(const BackwardItem& item, const BackwardShared& shared,
               const BackwardScratch& scratch);
  /// dq of one query head from its chunks' partial sums.
  void (*finish_dq)(const CpuPlan& plan, const Call& call, const Sequence& sequence, int64_t head,
                    int64_t chunks, const BackwardShared& shared, const BackwardScratch& scratch);
  /// One tile of dbias, summed over what bias was broadcast over. slot_*: index within bias's own
  /// extents; row_begin .. row_end are all rows when rows share a bias.
  void (*dbias)(const CpuPlan& plan, const Call& call, int64_t slot_batch, int64_t slot_head,
                int64_t row_begin, int64_t key_begin, const BackwardShared& shared,
                const BackwardScratch& scratch);
};
const BackwardKernels& backward_kernels();

/// Row of delta and dq's partial sums: packed sequences lie as in the tensors.
inline int64_t token(const Problem& problem, const Sequence& sequence) {
  return problem.q.packed ? sequence.q.begin : sequence.index * problem.q.seqlen;
}

/// Address of one row of a head, counted within the sequence: of q, out, dq ... or of k, v, dk, dv.
inline char* query_row(const Rows& rows, const Sequence& sequence, int64_t i, int64_t head) {
  return rows.data + rows.offset(sequence.index, sequence.q.begin + i, head) * bytes_of(rows.dtype);
}
inline char* key_row(const Rows& rows, const Sequence& sequence, int64_t j, int64_t head) {
  const Pages& pages = sequence.pages;
  if (pages.size != 0) {
    return rows.data + rows.offset(pages.page(j), j % pages.size, head) * bytes_of(rows.dtype);
  }
  return rows.data + rows.offset(sequence.index, sequence.k.begin + j, head) * bytes_of(rows.dtype);
}

}  // namespace fa::cpu
