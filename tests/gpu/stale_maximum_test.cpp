// Rows that are hard on a maximum that is not renewed at each step: scores that grow or fall along
// the row by more than P can take, rows that are nearly one-hot, scores that are all negative, or
// large.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <string>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

constexpr int64_t rows = 140, keys = 700;

struct Pattern {
  const char* name;
  std::function<double(int64_t key)> score;
  int64_t only_row = -1;  ///< in which alone a number of P is large
};

std::vector<Pattern> patterns() {
  const auto hot = [](int64_t at, double high) {
    return [=](int64_t key) { return key == at ? high : -5.0; };
  };
  return {
      {"growing beyond the range of P", [](int64_t key) { return key - 350.0; }},
      {"falling beyond it", [](int64_t key) { return 350.0 - key; }},
      {"growing slowly", [](int64_t key) { return static_cast<double>(key) / 8; }},
      {"falling slowly", [](int64_t key) { return -static_cast<double>(key) / 8; }},
      {"one-hot at the first key", hot(0, 60)},
      {"one-hot at the last key", hot(keys - 1, 60)},
      {"one-hot in the middle, within the range of P", hot(333, 4)},
      {"one-hot far beyond the range of P, in one row", hot(217, 190), 61},
      {"all negative", [](int64_t key) { return -1e4 - static_cast<double>(key % 7); }},
      {"up to 1e4", [](int64_t key) { return static_cast<double>(key * 37 % 101 - 50) * 200; }},
  };
}

/// A tensor's numbers in the host's memory.
struct Copy {
  std::vector<std::byte> bytes;
  Tensor tensor;

  explicit Copy(const GpuTensor& from) : bytes(from.bytes()), tensor(from) {
    tensor.data = bytes.data();
    tensor.device = {1, 0};
  }
};

/// Of tensors of one sequence. `device` has the options' tensors on the device, `host` on the host.
void expect_right(const GpuTensor& q, const GpuTensor& k, DType dtype, const Options& device,
                  Options host) {
  const int64_t heads = q.shape()[2];
  const GpuTensor v = normal(k.shape(), dtype, 3), out(q.shape(), dtype),
                  lse({1, heads, rows}, float32);
  forward(q, k, v, out, lse, device);
  gpu().synchronize(nullptr);
  host.family = Family::automatic;
  Copy host_q(q), host_k(k), host_v(v), host_out(out), host_lse(lse);
  const ForwardArgs args{host_q.tensor, host_k.tensor, host_v.tensor, host_out.tensor,
                         host_lse.tensor};
  using reference::Rounding;
  const auto exact = reference::forward(args, host, Rounding::exact);
  const auto plain = reference::forward(args, host, Rounding::plain);
  expect_close("out", out.values(), dtype, dtype, {exact.out, plain.out, exact.out_abs});
  expect_close("lse", lse.values(), float32, dtype, {exact.lse, plain.lse, exact.lse_abs});
}

std::string text(int64_t head_dim, DType dtype, Family family) {
  return ", head_dim " + std::to_string(head_dim) +
         (dtype == float16 ? ", float16" : ", bfloat16") + (family == Family::sm80 ? ", sm80" : "");
}

void expect_right(const Pattern& pattern, int64_t head_dim, DType dtype, bool causal,
                  Family family) {
  SCOPED_TRACE(pattern.name + text(head_dim, dtype, family) + (causal ? ", causal" : ""));
  const GpuTensor q({1, rows, 1, head_dim}, dtype), k({1, keys, 1, head_dim}, dtype);
  // The first column of k is the score; the others make it differ between rows.
  q.set([&](int64_t n) {
    if (n % head_dim != 0) return std::sin(static_cast<double>(n)) / 4;
    return pattern.only_row < 0 || pattern.only_row == n / head_dim ? 1.0 : 0.0;
  });
  k.set([&](int64_t n) {
    return n % head_dim == 0 ? pattern.score(n / head_dim) : std::cos(static_cast<double>(n)) / 4;
  });
  Options options;
  options.scale = 1;
  options.causal = causal;
  options.family = family;
  expect_right(q, k, dtype, options, options);
}

class HardRows : public testing::TestWithParam<Family> {};

TEST_P(HardRows, IsWithinTheBound) {
  const std::vector<Pattern> all = patterns();
  in_parallel(static_cast<int64_t>(all.size()), [&](int64_t n) {
    for (const int64_t head_dim : {64, 128, 256}) {
      for (const DType dtype : {float16, bfloat16}) {
        for (const bool causal : {false, true}) {
          expect_right(all[static_cast<size_t>(n)], head_dim, dtype, causal, GetParam());
        }
      }
    }
  });
}

/// Slopes that raise the scores of a row by more than P can take, as they go away from the diagonal
/// or towards it: a step without a mask adds them in the exponent.
TEST_P(HardRows, OfAlibiAreWithinTheBound) {
  constexpr float slopes[] = {0, 0.5, -0.02, -0.25, -1, 1e-3};
  constexpr int64_t heads = std::size(slopes);
  const GpuTensor on_device({heads}, float32);
  on_device.set([&](int64_t n) { return slopes[n]; });
  for (const int64_t head_dim : {64, 128, 256}) {
    for (const DType dtype : {float16, bfloat16}) {
      SCOPED_TRACE("ALiBi" + text(head_dim, dtype, GetParam()));
      const GpuTensor q = normal({1, rows, heads, head_dim}, dtype, 1),
                      k = normal({1, keys, heads, head_dim}, dtype, 2);
      Options options;
      options.causal = true;
      options.family = GetParam();
      options.alibi_slopes = on_device;
      Options host = options;
      host.alibi_slopes = View(slopes, float32, {heads});
      expect_right(q, k, dtype, options, host);
    }
  }
}

/// Out of the first of two packed sequences of 100 rows; `loud`: the numbers of the second one's q.
std::vector<std::byte> first_beside(double loud, int64_t head_dim, DType dtype) {
  constexpr int64_t length = 100, both = 2 * length, all_keys = 600;
  const GpuTensor q({both, 1, head_dim}, dtype),
      k = normal({all_keys, 1, head_dim}, dtype, 1), v = normal({all_keys, 1, head_dim}, dtype, 2),
      out(q.shape(), dtype), lengths_q({3}, {0, 32, 1}), lengths_k({3}, {0, 32, 1});
  q.set([=](int64_t n) { return n / head_dim < length ? std::sin(static_cast<double>(n)) : loud; });
  lengths_q.set_integers({0, length, both});
  lengths_k.set_integers({0, all_keys / 2, all_keys});
  Options options;
  options.batch_invariant = true;
  options.cu_seqlens_q = lengths_q;
  options.cu_seqlens_k = lengths_k;
  options.max_seqlen_q = length;
  options.max_seqlen_k = all_keys / 2;
  forward(q, k, v, out, {}, options);
  gpu().synchronize(nullptr);
  std::vector<std::byte> bytes = out.bytes();
  bytes.resize(static_cast<size_t>(length * head_dim * 2));
  return bytes;
}

// A warp renews the maximum of all its rows, and the last rows of a sequence may share a warp with
// the first ones of the next.
TEST(StaleMaximum, ANeighbourChangesNoBit) {
  for (const int64_t head_dim : {64, 128, 256}) {
    for (const DType dtype : {float16, bfloat16}) {
      const std::vector<std::byte> quiet = first_beside(0, head_dim, dtype);
      for (const double loud : {30.0, std::numeric_limits<double>::quiet_NaN()}) {
        EXPECT_TRUE(first_beside(loud, head_dim, dtype) == quiet) << head_dim << ", " << loud;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(StaleMaximum, HardRows, testing::Values(Family::automatic, Family::sm80),
                         [](const auto& family) {
                           return family.param == Family::sm80 ? "sm80" : "AsPlanned";
                         });

}  // namespace
}  // namespace fa::test
