// What is dropped on the device is dropped on the CPU, element by element, whatever the tile, the
// split and the pass. With q = 0 all probabilities are equal, and with one key's unit vector in
// each column of V, O is P with the dropped elements 0.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

struct MaskCase {
  DType dtype;
  int64_t batch, rows, keys, heads, dim, dim_v;
  double p;
  uint64_t seed, offset;
  bool state = false;  ///< seed and offset lie in device memory
};

/// Keys that a case's V shows at once: its columns.
void show_keys(const GpuTensor& v, int64_t first) {
  const int64_t keys = v.shape()[v.shape().size() - 3], width = v.shape().back();
  v.set([&](int64_t n) { return n / width % keys - first == n % width ? 1 : 0; });
}

void expect_mask(const MaskCase& c) {
  const GpuTensor q({c.batch, c.rows, c.heads, c.dim}, c.dtype);
  const GpuTensor k = normal({c.batch, c.keys, 1, c.dim}, c.dtype, 1);
  const GpuTensor v({c.batch, c.keys, 1, c.dim_v}, c.dtype);
  const GpuTensor out({c.batch, c.rows, c.heads, c.dim_v}, c.dtype);
  const GpuTensor state({2}, int64);
  q.set([](int64_t) { return 0; });
  state.set_integers({static_cast<int64_t>(c.seed), static_cast<int64_t>(c.offset)});
  Options options;
  options.dropout_p = c.p;
  if (c.state) {
    options.dropout_state = state;
  } else {
    options.dropout_seed = c.seed;
    options.dropout_offset = c.offset;
  }
  const GpuStream stream;
  int64_t wrong = 0, kept = 0;
  for (int64_t first = 0; first < c.keys; first += c.dim_v) {
    show_keys(v, first);
    out.poison();
    forward(q, k, v, out, {}, options, stream);
    stream.synchronize();
    const std::vector<double> p = out.values();
    const int64_t count = std::min(c.dim_v, c.keys - first);
    for (int64_t row = 0; row < c.batch * c.rows * c.heads; ++row) {
      const int64_t head = row % c.heads, i = row / c.heads % c.rows, b = row / c.heads / c.rows;
      for (int64_t j = 0; j < count; ++j) {
        const bool keeps = reference::keeps(c.p, c.seed, c.offset, b, head, c.heads, i, first + j);
        const double x = p[static_cast<size_t>(row * c.dim_v + j)];
        wrong += keeps ? !(x > 0) : x != 0;  // a NaN is wrong either way
        kept += keeps;
      }
    }
  }
  EXPECT_EQ(wrong, 0) << fmt::format("of {} elements, {} kept: {} rows, {} keys, head_dim {}/{}",
                                     c.batch * c.rows * c.heads * c.keys, kept, c.rows, c.keys,
                                     c.dim, c.dim_v);
}

TEST(Dropout, MasksAreTheCpus) {
  const uint64_t high = uint64_t{7} << 32;
  const std::vector<MaskCase> cases = {
      {bfloat16, 2, 150, 203, 3, 64, 64, 0.3, 5, 11},
      {float16, 2, 150, 203, 3, 64, 64, 0.5, ~uint64_t{2}, high + 3, true},
      {bfloat16, 1, 141, 300, 2, 128, 128, 0.9, 1, 0},
      {float16, 1, 70, 300, 2, 128, 72, 0.1, high, high},
      {bfloat16, 1, 150, 260, 2, 256, 256, 0.5, 3, ~uint64_t{0}},
      {float16, 1, 40, 150, 2, 40, 256, 0.7, 9, 4, true},
      {bfloat16, 1, 35, 140, 2, 576, 512, 0.5, 12, 13},
      {bfloat16, 2, 1, 4100, 2, 64, 256, 0.25, 21, 22},  // the keys are split
  };
  in_parallel(static_cast<int64_t>(cases.size()),
              [&](int64_t n) { expect_mask(cases[static_cast<size_t>(n)]); });
}

TEST(Dropout, PackedSequencesAreNumberedInTheirOrder) {
  const std::vector<int64_t> rows{0, 40, 40, 117}, keys{0, 50, 59, 179};
  constexpr int64_t heads = 3, width = 128;
  constexpr double p = 0.4;
  const GpuTensor q({rows.back(), heads, width}, bfloat16),
      out({rows.back(), heads, width}, bfloat16);
  const GpuTensor k = normal({keys.back(), 1, width}, bfloat16, 1);
  const GpuTensor v({keys.back(), 1, width}, bfloat16);
  const GpuTensor cu_q({4}, int32), cu_k({4}, int32);
  q.set([](int64_t) { return 0; });
  v.set([&](int64_t n) {  // each sequence's keys count from 0
    const int64_t key = n / width;
    const auto end = std::upper_bound(keys.begin(), keys.end(), key);
    return key - *(end - 1) == n % width ? 1 : 0;
  });
  cu_q.set_integers(rows);
  cu_k.set_integers(keys);
  Options options;
  options.dropout_p = p;
  options.dropout_seed = 6;
  options.cu_seqlens_q = cu_q;
  options.cu_seqlens_k = cu_k;
  options.max_seqlen_q = options.max_seqlen_k = 120;
  const GpuStream stream;
  forward(q, k, v, out, {}, options, stream);
  stream.synchronize();
  const std::vector<double> values = out.values();
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t i = rows[b]; i < rows[b + 1]; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t j = 0; j < keys[b + 1] - keys[b]; ++j) {
          const double x = values[static_cast<size_t>((i * heads + h) * width + j)];
          const bool keeps = reference::keeps(p, 6, 0, b, h, heads, i - rows[b], j);
          ASSERT_TRUE(keeps ? x > 0 : x == 0) << b << " " << i << " " << h << " " << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fa::test
