#include "problem/problem.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace fa {

std::string name(DType dtype) {
  const char* kind = dtype.code == 0   ? "int"
                     : dtype.code == 1 ? "uint"
                     : dtype.code == 2 ? "float"
                     : dtype.code == 4 ? "bfloat"
                                       : "code";
  std::string text = fmt::format("{}{}", kind, dtype.bits);
  if (dtype.lanes != 1) text += fmt::format("x{}", dtype.lanes);
  return text;
}

namespace {

struct Extent {
  int64_t begin;
  int64_t extent;
  int64_t used;
};

Extent extent_of(int64_t b, const int32_t* cu_seqlens, int64_t seqlen, const int32_t* seqused) {
  Extent e{0, seqlen, seqlen};
  if (cu_seqlens != nullptr) {
    e.begin = cu_seqlens[b];
    e.extent = e.used = cu_seqlens[b + 1] - cu_seqlens[b];
  }
  if (seqused != nullptr) e.used = seqused[b];
  return e;
}

}  // namespace

Sequence Call::sequence(int64_t b) const {
  const Extent q = extent_of(b, cu_seqlens_q, problem.seqlen_q, seqused_q);
  const Extent k = extent_of(b, cu_seqlens_k, problem.seqlen_k, seqused_k);
  return {b, q.begin, q.extent, q.used, k.begin, k.extent, k.used};
}

}  // namespace fa
