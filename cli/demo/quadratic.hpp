// The plain way, to compare with: S = Q K^T, P = softmax(S), O = P V, each matrix stored whole for
// every head. Its products are blocked and vectorized, so that the comparison is a fair one.
#pragma once

#include <cstdint>

namespace fa::cli {

/// A matrix or its transpose: element (i, k) is a[i * row + k * column].
struct Factor {
  const float* a;
  int64_t row;
  int64_t column;
};

/// Causal self-attention of one sequence, float32. Tensors are [heads][seqlen][head_dim];
/// seqlen and head_dim are multiples of 32.
struct PlainShape {
  int64_t heads = 0;
  int64_t seqlen = 0;
  int64_t head_dim = 0;

  int64_t tensor() const { return heads * seqlen * head_dim; }
  int64_t scores() const { return heads * seqlen * seqlen; }
};

/// Fills p [heads][seqlen][seqlen], which a training step keeps for `plain_backward`.
void plain_forward(const PlainShape& shape, const float* q, const float* k, const float* v,
                   float* p, float* out);

/// `ds` is as large as p, and overwritten.
void plain_backward(const PlainShape& shape, const float* dout, const float* q, const float* k,
                    const float* v, const float* out, const float* p, float* ds, float* dq,
                    float* dk, float* dv);

}  // namespace fa::cli
