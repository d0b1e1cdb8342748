// The forward pass's kernels, compiled once for each instruction set: packing, the pass of one tile
// (forward_tile-inl.hpp), the sum over chunks of keys, and `merge`.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/forward_simd.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
#include "cpu/arithmetic/tiles-inl.hpp"
#include "cpu/forward_tile-inl.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/row_end-inl.hpp"
#include "cpu/rows-inl.hpp"
// clang-format on

#include <cmath>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/target.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void Pack(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head_k, int64_t block,
          float* packed) {
  const int64_t keys = plan.tuning.forward_keys;
  with_arithmetic(plan.arithmetic, [&]<class A>(A) {
    pack_keys<A>(call, seq, head_k, block * keys, std::min(keys, seq.k.len - block * keys),
                 packed + block * packed_block_floats(plan.problem, keys));
  });
}

void TilePass(const ForwardTile& task, const ForwardScratch& scratch) {
  const CpuPlan& plan = task.plan;
  with_arithmetic(task.in_place ? plan.arithmetic_in_place : plan.arithmetic,
                  [&]<class A>(A) { TileForward<A>(task, scratch).run(); });
}

/// out = sum over chunks of exp(maximum_c - maximum) out_c, divided by the same of their sums;
/// chunks in their order, the sink once.
HWY_ATTR void Combine(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head_k,
                      int64_t chunks, const float* partial_out, const RowSum* partial_sums,
                      const ForwardScratch& scratch) {
  const Floats d;
  const Problem& p = plan.problem;
  const int64_t width = padded(p.head_dim_v);
  const int64_t rows = p.group() * seq.q.len;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = head_k * p.group() + r / seq.q.len;
    const int64_t i = r % seq.q.len;
    float maximum = minus_infinity;
    for (int64_t c = 0; c < chunks; ++c) {
      maximum = std::max(maximum, partial_sums[c * rows + r].maximum);
    }
    double sum = 0;
    std::memset(scratch.o, 0, width * sizeof(float));
    std::memset(scratch.rest, 0, width * sizeof(float));
    for (int64_t c = 0; c < chunks; ++c) {
      const RowSum chunk = partial_sums[c * rows + r];
      if (chunk.maximum == minus_infinity && chunk.sum == 0) continue;
      // mutant "join of chunks": std::exp(chunk.maximum - maximum) => 1.0f
      const float weight = std::exp(chunk.maximum - maximum);
      sum += static_cast<double>(weight) * chunk.sum;
      const float* out = partial_out + (c * rows + r) * width;
      for (int64_t x = 0; x < width; x += static_cast<int64_t>(hn::Lanes(d))) {
        auto total = hn::Load(d, scratch.o + x);
        auto rest = hn::Load(d, scratch.rest + x);
        add_kept(d, hn::Mul(hn::Set(d, weight), hn::Load(d, out + x)), total, rest);
        hn::Store(total, d, scratch.o + x);
        hn::Store(rest, d, scratch.rest + x);
      }
    }
    // mutant "sinks: chunks of keys": sink_of(call, head) => minus_infinity
    const RowEnd end = end_row(maximum, sum, sink_of(call, head));
    store_row(p.dtype, scratch.o, p.head_dim_v, end.factor, query_row(call.out, seq, i, head));
    if (p.wants.lse) *call.lse.at<float>(seq.index, seq.q.begin + i, head) = end.lse();
  }
}

HWY_ATTR void Merge(const MergeCall& call, int64_t batch, int64_t head) {
  const auto element = [&](const Rows& rows, int64_t i) {
    return rows.data + rows.offset(batch, i, head) * bytes_of(rows.dtype);
  };
  // -inf for a part without keys, for which flash_attn 2 writes +inf.
  const auto statistic = [&](const Rows& rows, int64_t i) {
    const float lse = *rows.at<float>(batch, i, head);
    return lse == -minus_infinity ? minus_infinity : lse;
  };
  constexpr int64_t piece = 64;  // a row goes through in pieces: any head_dim, no memory
  HWY_ALIGN float a[piece];
  HWY_ALIGN float b[piece];
  for (int64_t i = 0; i < call.seqlen; ++i) {
    const float lse_a = statistic(call.lse_a, i), lse_b = statistic(call.lse_b, i);
    const float top = std::max(lse_a, lse_b);
    const bool empty = lse_a == minus_infinity && lse_b == minus_infinity;
    const float from_a = empty ? 0 : std::exp(lse_a - top);
    const float from_b = empty ? 0 : std::exp(lse_b - top);
    const float total = empty ? 1 : from_a + from_b;
    for (int64_t x = 0; x < call.head_dim; x += piece) {
      const int64_t n = std::min(piece, call.head_dim - x);
      const int64_t bytes = x * bytes_of(call.out.dtype);
      const auto load = [&](const Rows& part, float lse, float* to) {
        if (lse == minus_infinity) {  // absent, whatever it holds
          std::fill_n(to, n, 0.0f);
        } else {
          load_row(part.dtype, element(part, i) + bytes, n, 1.0f, to);
        }
      };
      load(call.out_a, lse_a, a);
      load(call.out_b, lse_b, b);
      // mutant "merge" of capi_test: b[y] * from_b => 0
      for (int64_t y = 0; y < n; ++y) a[y] = (a[y] * from_a + b[y] * from_b) / total;
      store_row(call.out.dtype, a, n, 1.0f, element(call.out, i) + bytes);
    }
    *call.lse.at<float>(batch, i, head) = empty ? minus_infinity : top + std::log(total);
  }
}

ForwardKernels GetForwardKernels() { return {Pack, TilePass, Combine, Merge}; }

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cpu {

HWY_EXPORT(GetForwardKernels);

const ForwardKernels& forward_kernels() {
  static const ForwardKernels kernels = HWY_DISPATCH_TABLE(GetForwardKernels)[target_index()]();
  return kernels;
}

}  // namespace fa::cpu
#endif
