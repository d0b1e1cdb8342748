// Tensors whose elements lie more than 2^31 and 2^32 elements from their first. Chosen rows are
// compared; what is read or written at an offset cut to 32 bits shows as NaN.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "gpu/driver_more.hpp"
#include "gpu/gpu.hpp"
#include "reference/number.hpp"

namespace fa::test {
namespace {

using reference::Rounding;

bool fits(int64_t bytes) {
  return static_cast<int64_t>(free_memory()) > bytes + (int64_t{1} << 30);
}

/// A small tensor on the host that stands for part of a large one.
check::Array host_array(std::vector<int64_t> shape, DType dtype, uint64_t seed) {
  const check::Layout layout = check::contiguous(shape);
  check::Array array(std::move(shape), dtype, layout);
  check::Random random(seed);
  array.fill([&](int64_t) { return random.normal(); });
  return array;
}

void expect_rows(const check::Array& out, const check::Array& lse, const ForwardArgs& args,
                 const Options& options, const std::string& where) {
  const auto exact = reference::forward(args, options, Rounding::exact);
  const auto plain = reference::forward(args, options, Rounding::plain);
  expect_close("out " + where, out.values(), bfloat16, bfloat16,
               {exact.out, plain.out, exact.out_abs});
  expect_close("lse " + where, lse.values(), float32, bfloat16,
               {exact.lse, plain.lse, exact.lse_abs});
}

// Contiguous: q and out of 2^31 elements and some more, as one sequence or many packed ones.

constexpr int64_t heads = 64, width = 128, row_elements = heads * width;
constexpr int64_t boundary = (int64_t{1} << 31) / row_elements;  // its row begins at 2^31
constexpr int64_t all_rows = boundary + 300;
constexpr int64_t block = 16;   // rows of a part that is compared
constexpr int64_t window = 64;  // keys that a row sees to its left

/// One part's inputs on the host: `block` rows from `row` on and the keys they see, fewer at the
/// tensor's begin.
struct Part {
  int64_t row, keys;
  check::Array q, k, v, out, lse;

  Part(int64_t first, int64_t seen)
      : row(first),
        keys(std::min(seen, first + block)),
        q(host_array({1, block, heads, width}, bfloat16, first + 1)),
        k(host_array({1, keys, 1, width}, bfloat16, first + 2)),
        v(host_array({1, keys, 1, width}, bfloat16, first + 3)),
        out(host_array({1, block, heads, width}, bfloat16, 0)),
        lse(host_array({1, heads, block}, float32, 0)) {}
  int64_t key() const { return row + block - keys; }
};

class Dense {
 public:
  static constexpr int64_t bytes =
      2 * (2 * all_rows * row_elements + 2 * all_rows * width) + 4 * all_rows * heads;
  explicit Dense(int64_t seen_keys) {
    for (const GpuMemory* memory : {&q_, &k_, &v_}) memory->fill(0x3c);  // a number
    for (const int64_t row : {int64_t{0}, boundary / 2 - 5, boundary - 7, all_rows - block}) {
      const Part& part = parts_.emplace_back(row, seen_keys);
      upload(q_, part.row * row_elements, part.q);
      upload(k_, part.key() * width, part.k);
      upload(v_, part.key() * width, part.v);
    }
  }
  const std::vector<Part>& parts() const { return parts_; }

  void run(bool packed, const Options& options) const {
    const auto view = [&](const GpuMemory& memory, int64_t n) {
      const int64_t shape[] = {1, all_rows, n, width};
      return View(memory.data(), bfloat16, shape + packed, nullptr, 4 - packed, gpu().device());
    };
    const int64_t lse_shape[] = {1, heads, all_rows};
    const View q = view(q_, heads), k = view(k_, 1), v = view(v_, 1), out = view(out_, heads),
               lse(lse_.data(), float32, lse_shape + packed, nullptr, 3 - packed, gpu().device());
    const GpuStream stream;
    forward(q, k, v, out, lse, options, stream);
    stream.synchronize();
  }

  void expect_part(const Part& part, const Options& options) const {
    download(out_, part.row * row_elements, part.out);
    std::byte* to = part.lse.memory().data();
    for (int64_t h = 0; h < heads; ++h) {
      lse_.download(to + h * block * 4, static_cast<size_t>(h * all_rows + part.row) * 4,
                    block * 4);
    }
    expect_rows(part.out, part.lse, {part.q.tensor(), part.k.tensor(), part.v.tensor(), {}, {}},
                options, fmt::format("from row {} on", part.row));
  }

  /// All through the tensor: no row is left as it was.
  void expect_written() const {
    std::vector<uint16_t> row(row_elements);
    int64_t left = 0;
    for (int64_t n = 0; n < all_rows; n += 1009) {
      out_.download(row.data(), static_cast<size_t>(n * row_elements) * 2, row.size() * 2);
      left += std::count(row.begin(), row.end(), 0xffff);
    }
    EXPECT_EQ(left, 0);
  }

 private:
  static void upload(const GpuMemory& to, int64_t element, const check::Array& from) {
    to.upload(static_cast<size_t>(element) * 2, from.memory().data(), from.memory().size());
  }
  static void download(const GpuMemory& from, int64_t element, const check::Array& to) {
    from.download(to.memory().data(), static_cast<size_t>(element) * 2, to.memory().size());
  }

  GpuMemory q_{2 * all_rows * row_elements}, out_{2 * all_rows * row_elements};
  GpuMemory k_{2 * all_rows * width}, v_{2 * all_rows * width}, lse_{4 * all_rows * heads};
  std::vector<Part> parts_;
};

Options causal_window() {
  Options options;
  options.causal = true;
  options.window_left = window;
  return options;
}

TEST(Large, ContiguousBeyond32Bits) {
  if (!fits(Dense::bytes)) GTEST_SKIP() << "needs " << Dense::bytes << " bytes of device memory";
  const Dense dense(block + window);
  dense.run(false, causal_window());
  dense.expect_written();
  for (const Part& part : dense.parts()) dense.expect_part(part, causal_window());
}

/// Each part is a sequence of its own.
TEST(Large, PackedBeyond32Bits) {
  if (!fits(Dense::bytes)) GTEST_SKIP() << "needs " << Dense::bytes << " bytes of device memory";
  const Dense dense(block);
  std::vector<int64_t> bounds;
  for (const Part& part : dense.parts()) bounds.insert(bounds.end(), {part.row, part.row + block});
  const GpuTensor cu_seqlens({static_cast<int64_t>(bounds.size())}, int32);
  cu_seqlens.set_integers(bounds);
  Options options = causal_window();
  options.cu_seqlens_q = options.cu_seqlens_k = cu_seqlens;
  options.max_seqlen_q = options.max_seqlen_k = boundary;
  dense.run(true, options);
  dense.expect_written();
  for (const Part& part : dense.parts()) dense.expect_part(part, causal_window());
}

// Strides: one dimension reaches over 2^32 elements, the others are dense.

constexpr int64_t farthest = (int64_t{1} << 32) + 4096;
constexpr int64_t strided_bytes = 4 * farthest + (int64_t{64} << 20);  // of float32

/// A tensor within one large piece of memory, at `place` bytes, with a copy on the host.
class FarTensor {
 public:
  FarTensor(const GpuMemory& memory, int64_t place, std::vector<int64_t> shape, int64_t far,
            DType dtype, uint64_t seed)
      : memory_(memory),
        place_(place),
        host_(host_array(shape, dtype, seed)),
        strides_(shape.size(), 1) {
    int64_t dense = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      if (static_cast<int64_t>(d) == far) continue;
      strides_[d] = dense;
      dense *= shape[d];
    }
    const size_t d = static_cast<size_t>(far);
    strides_[d] = farthest / std::max<int64_t>(shape[d] - 1, 1) / 8 * 8;
  }
  operator Tensor() const {  // NOLINT(google-explicit-constructor): passed where a Tensor is asked
    Tensor t = host_.tensor();
    t.data = memory_.data() + place_;
    t.device = gpu().device();
    t.strides = strides_.data();
    return t;
  }
  const check::Array& host() const { return host_; }
  void upload() const {
    for_each_row(
        [this](std::byte* host, size_t at, size_t bytes) { memory_.upload(at, host, bytes); });
  }
  void download() const {
    for_each_row(
        [this](std::byte* host, size_t at, size_t bytes) { memory_.download(host, at, bytes); });
  }

 private:
  /// Rows along the last dimension, with their bytes' place in the device's memory.
  void for_each_row(const std::function<void(std::byte*, size_t, size_t)>& f) const {
    const std::vector<int64_t>& shape = host_.shape();
    const int64_t size = host_.dtype().bits / 8;
    for (int64_t n = 0; n < host_.numel(); n += shape.back()) {
      int64_t rest = n, element = 0;
      for (size_t d = shape.size(); d-- > 0;) {
        element += rest % shape[d] * strides_[d];
        rest /= shape[d];
      }
      f(host_.memory().data() + n * size, static_cast<size_t>(place_ + element * size),
        static_cast<size_t>(shape.back() * size));
    }
  }

  const GpuMemory& memory_;
  int64_t place_;
  check::Array host_;
  std::vector<int64_t> strides_;
};

TEST(Large, StridesBeyond32Bits) {
  if (!fits(strided_bytes)) GTEST_SKIP() << "needs " << strided_bytes << " bytes of device memory";
  constexpr int64_t batch = 2, rows = 20, keys = 40, heads_q = 4, heads_k = 2, dim = 64;
  constexpr int64_t apart = 4 << 20;  // bytes between the tensors' first elements
  const GpuMemory memory(strided_bytes);
  // The far dimension of [batch, row, head, dim], and that of lse, whose rows are dense, and bias.
  const struct {
    const char* name;
    int64_t of_rows, of_lse, of_bias;
  } far_dimensions[] = {{"batch", 0, 0, 0}, {"row", 1, 0, 2}, {"head", 2, 1, 1}};
  for (const auto& far : far_dimensions) {
    memory.fill(0xff);
    const auto place = [&](int64_t n, std::vector<int64_t> shape, int64_t dimension, DType dtype) {
      return FarTensor(memory, n * apart, std::move(shape), dimension, dtype,
                       static_cast<uint64_t>(n));
    };
    const FarTensor q = place(0, {batch, rows, heads_q, dim}, far.of_rows, bfloat16);
    const FarTensor k = place(1, {batch, keys, heads_k, dim}, far.of_rows, bfloat16);
    const FarTensor v = place(2, {batch, keys, heads_k, dim}, far.of_rows, bfloat16);
    const FarTensor bias = place(3, {batch, heads_q, rows, keys}, far.of_bias, bfloat16);
    const FarTensor out = place(4, {batch, rows, heads_q, dim}, far.of_rows, bfloat16);
    const FarTensor lse = place(5, {batch, heads_q, rows}, far.of_lse, float32);
    for (const FarTensor* t : {&q, &k, &v, &bias}) t->upload();
    Options options;
    options.bias = bias;
    const GpuStream stream;
    forward(q, k, v, out, lse, options, stream);
    stream.synchronize();
    out.download();
    lse.download();
    options.bias = bias.host().tensor();
    expect_rows(out.host(), lse.host(),
                {q.host().tensor(), k.host().tensor(), v.host().tensor(), {}, {}}, options,
                fmt::format("with far strides of {}", far.name));
  }
}

}  // namespace
}  // namespace fa::test
