// Rows and keys that no sequence covers: those beyond `seqused`, and packed tokens behind the last
// sequence. Outputs are 0 there, LSE is -inf.
#pragma once

#include <cstring>
#include <limits>

#include "problem/problem.hpp"

namespace fa::cpu {

struct TokenRange {
  int64_t batch;  ///< of the tensor; 0 when packed
  int64_t begin;
  int64_t end;
};

/// The rows (query_side) or keys of sequence b that do not count. b == batch means the packed
/// tokens behind the last sequence.
inline TokenRange unused_tokens(const Call& call, int64_t b, bool query_side) {
  const Problem& p = call.problem;
  const Side& side = query_side ? p.q : p.k;
  if (b == p.batch) {
    const int32_t* cu_seqlens = query_side ? call.cu_seqlens_q : call.cu_seqlens_k;
    return {0, side.packed ? cu_seqlens[b] : 0, side.packed ? side.tokens : 0};
  }
  const Sequence seq = call.sequence(b);
  const Span& span = query_side ? seq.q : seq.k;
  return {side.packed ? 0 : b, span.begin + span.len, span.begin + span.extent};
}

inline void clear_rows(const Rows& rows, TokenRange range, int64_t heads, int64_t width) {
  for (int64_t r = range.begin; r < range.end; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t bytes = bytes_of(rows.dtype);
      std::memset(rows.data + rows.offset(range.batch, r, h) * bytes, 0, width * bytes);
    }
  }
}

inline void clear_lse(const Rows& lse, TokenRange range, int64_t heads) {
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      *lse.at<float>(range.batch, r, h) = -std::numeric_limits<float>::infinity();
    }
  }
}

}  // namespace fa::cpu
