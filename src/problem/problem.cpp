#include "problem/problem.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace fa {

std::string name(DType dtype) {
  // DLPack's type codes: kinds that come with any number of bits, and types that say theirs.
  static constexpr const char* kinds[] = {"int", "uint", "float", "handle", "bfloat", "complex"};
  static constexpr const char* types[] = {
      "bool",           "float8_e3m4",     "float8_e4m3",   "float8_e4m3b11fnuz",
      "float8_e4m3fn",  "float8_e4m3fnuz", "float8_e5m2",   "float8_e5m2fnuz",
      "float8_e8m0fnu", "float6_e2m3fn",   "float6_e3m2fn", "float4_e2m1fn"};
  std::string text = dtype.code < std::size(kinds)
                         ? fmt::format("{}{}", kinds[dtype.code], dtype.bits)
                     : dtype.code < std::size(kinds) + std::size(types)
                         ? types[dtype.code - std::size(kinds)]
                         : fmt::format("unknown type {} ({} bits)", dtype.code, dtype.bits);
  if (dtype.lanes != 1) text += fmt::format("x{}", dtype.lanes);
  return text;
}

namespace {

Span span(int64_t b, const int32_t* cu_seqlens, int64_t seqlen, const int32_t* seqused) {
  Span span{0, seqlen, seqlen};
  if (cu_seqlens != nullptr) {
    // mutant "cu_seqlens": cu_seqlens[b] => 0
    span.begin = cu_seqlens[b];
    span.extent = span.len = cu_seqlens[b + 1] - cu_seqlens[b];
  }
  if (seqused != nullptr) span.len = seqused[b];
  return span;
}

}  // namespace

Sequence Call::sequence(int64_t b) const {
  return {b,
          // mutant "seqused_q": seqused_q => nullptr
          span(b, cu_seqlens_q, problem.q.seqlen, seqused_q),
          // mutant "seqused_k": seqused_k => nullptr
          span(b, cu_seqlens_k, problem.k.seqlen, seqused_k),
          Pages{page_table.at<const int32_t>(b, 0, 0), page_table.row, problem.k.page_size}};
}

}  // namespace fa
