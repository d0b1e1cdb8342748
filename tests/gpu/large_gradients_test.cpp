// Gradients whose elements lie more than 2^31 elements from their tensor's first: the same bits as
// those of contiguous tensors. An offset cut to 32 bits would hit the other sequence, or NaN.
#include <gtest/gtest.h>

#include "gpu/driver_more.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

constexpr int64_t length = 150, heads = 4, heads_k = 2, width = 64;
constexpr int64_t numbers = length * heads * width;  // of the longest tensor's sequence
constexpr int64_t far = (int64_t{1} << 31) + 4096;   // elements between two sequences

/// Tensors [2, length, heads, width] that share one memory: the second sequences of all of them lie
/// behind the first ones of all.
class Far {
 public:
  explicit Far(int64_t tensors) : memory_(static_cast<size_t>(2 * (far + tensors * numbers))) {}

  View view(int64_t tensor, int64_t of_heads) const {
    return View(at(tensor, 0), bfloat16, {2, length, of_heads, width},
                {far, of_heads * width, width, 1}, gpu().device());
  }
  void set(int64_t tensor, const GpuTensor& from) const {
    const std::vector<std::byte> bytes = from.bytes();
    const size_t half = bytes.size() / 2;
    for (int64_t b = 0; b < 2; ++b) {
      memory_.upload(place(tensor, b), bytes.data() + static_cast<size_t>(b) * half, half);
    }
  }
  std::vector<std::byte> bytes(int64_t tensor, size_t size) const {
    std::vector<std::byte> bytes(size);
    for (int64_t b = 0; b < 2; ++b) {
      memory_.download(bytes.data() + static_cast<size_t>(b) * size / 2, place(tensor, b),
                       size / 2);
    }
    return bytes;
  }

 private:
  static size_t place(int64_t tensor, int64_t sequence) {
    return static_cast<size_t>(2 * (tensor * numbers + sequence * far));
  }
  std::byte* at(int64_t tensor, int64_t sequence) const {
    return memory_.data() + place(tensor, sequence);
  }
  GpuMemory memory_;
};

TEST(Large, GradientsBeyond32Bits) {
  constexpr int64_t tensors = 8;
  if (free_memory() < static_cast<size_t>(2 * far) + (size_t{1} << 30)) {
    GTEST_SKIP() << "too little free memory";
  }
  const std::vector<int64_t> rows = {2, length, heads, width}, keys = {2, length, heads_k, width};
  const GpuTensor q = normal(rows, bfloat16, 1), k = normal(keys, bfloat16, 2),
                  v = normal(keys, bfloat16, 3), dout = normal(rows, bfloat16, 4),
                  out(rows, bfloat16), lse({2, heads, length}, float32), dq(rows, bfloat16),
                  dk(keys, bfloat16), dv(keys, bfloat16);
  const Options options{.causal = true, .deterministic = true};
  const GpuStream stream;
  forward(ForwardArgs{q, k, v, out, lse}, options, stream);
  backward(BackwardArgs{dout, q, k, v, out, lse, dq, dk, dv, {}, {}, {}}, options, stream);
  stream.synchronize();

  const Far far_away(tensors);
  const GpuTensor* const inputs[] = {&dout, &q, &k, &v, &out};
  for (int64_t n = 0; n < 5; ++n) far_away.set(n, *inputs[n]);
  const auto view = [&](int64_t n) {
    return far_away.view(n, n == 2 || n == 3 || n > 5 ? heads_k : heads);
  };
  const View far_dout = view(0), far_q = view(1), far_k = view(2), far_v = view(3),
             far_out = view(4), far_dq = view(5), far_dk = view(6), far_dv = view(7);
  backward(
      BackwardArgs{far_dout, far_q, far_k, far_v, far_out, lse, far_dq, far_dk, far_dv, {}, {}, {}},
      options, stream);
  stream.synchronize();
  const GpuTensor* const outputs[] = {&dq, &dk, &dv};
  for (int64_t n = 0; n < 3; ++n) {
    const std::vector<std::byte> expected = outputs[n]->bytes();
    EXPECT_EQ(far_away.bytes(5 + n, expected.size()), expected) << n;
  }
}

}  // namespace
}  // namespace fa::test
