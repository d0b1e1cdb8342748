// Two attentions over disjoint keys, joined, are the attention over all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "gpu/gpu.hpp"
#include "reference/number.hpp"

namespace fa::test {
namespace {

/// Keys [first, first + count) of a batched tensor.
class KeysOf {
 public:
  KeysOf(const check::Array& array, int64_t first, int64_t count)
      : whole_(array.tensor()), shape_(array.shape()), strides_(shape_.size(), 1) {
    for (size_t d = shape_.size(); d-- > 1;) strides_[d - 1] = strides_[d] * shape_[d];
    if (whole_.strides != nullptr) strides_.assign(whole_.strides, whole_.strides + whole_.ndim);
    shape_[1] = count;
    offset_ = first * strides_[1];
  }
  operator Tensor() const {  // NOLINT(google-explicit-constructor): passed where a Tensor is asked
    Tensor t = whole_;
    t.shape = shape_.data();
    t.strides = strides_.data();
    t.byte_offset += static_cast<uint64_t>(offset_ * t.dtype.bits / 8);
    return t;
  }

 private:
  Tensor whole_;
  std::vector<int64_t> shape_, strides_;
  int64_t offset_ = 0;
};

/// The outputs of one part.
struct Results {
  check::Array out, lse;
  Results(const check::Case& c, DType dtype)
      : out(c.out.shape(), dtype, check::contiguous(c.out.shape())),
        lse(c.lse.shape(), float32, check::contiguous(c.lse.shape())) {}
};

void expect_whole(const Results& results, const check::Case& c) {
  using reference::Rounding;
  const auto exact = reference::forward(c.forward_args(), c.options(), Rounding::exact);
  const auto plain = reference::forward(c.forward_args(), c.options(), Rounding::plain);
  const DType dtype = c.spec.dtype;
  expect_close("out", results.out.values(), dtype, dtype, {exact.out, plain.out, exact.out_abs});
  expect_close("lse", results.lse.values(), float32, dtype, {exact.lse, plain.lse, exact.lse_abs});
}

/// Joins the attentions over the first `cut` keys and the rest, also in the place of the first.
void expect_merged(const check::Spec& spec, int64_t cut) {
  const check::Case c(spec);
  const Results a(c, spec.dtype), b(c, spec.dtype), joined(c, spec.dtype);
  const KeysOf first_k(c.k, 0, cut), rest_k(c.k, cut, spec.keys.seqlen - cut);
  const KeysOf first_v(c.v, 0, cut), rest_v(c.v, cut, spec.keys.seqlen - cut);
  check::MemoryList memory = c.memory();
  for (const Results* results : {&a, &b, &joined}) {
    memory.add(results->out);
    memory.add(results->lse);
  }
  GpuPlace place;
  place.run(memory, [&](const check::Place::Here& here) {
    const auto merged = [&](const Results& to) {
      merge(here(a.out.tensor()), here(a.lse.tensor()), here(b.out.tensor()), here(b.lse.tensor()),
            here(to.out.tensor()), here(to.lse.tensor()), here.stream());
    };
    forward(here(c.q.tensor()), here(first_k), here(first_v), here(a.out.tensor()),
            here(a.lse.tensor()), {}, here.stream());
    forward(here(c.q.tensor()), here(rest_k), here(rest_v), here(b.out.tensor()),
            here(b.lse.tensor()), {}, here.stream());
    merged(joined);
    merged(a);
  });
  expect_whole(joined, c);
  EXPECT_EQ(a.out.memory().content(), joined.out.memory().content());
  EXPECT_EQ(a.lse.memory().content(), joined.lse.memory().content());
}

TEST(Merge, IsTheAttentionOverAllKeys) {
  const std::vector<int64_t> cuts = {1, 90, 203};  // the last leaves no key for the second
  in_parallel(6, [&](int64_t n) {
    check::Spec spec =
        problem({.batch = 2, .rows = 77, .keys = 203, .heads_q = 4, .heads_k = 2, .dim = 72});
    spec.dtype = n < 3 ? bfloat16 : float16;
    expect_merged(spec, cuts[static_cast<size_t>(n % 3)]);
  });
}

/// Rows that neither part, one or both have seen, by the formula on numbers of all sizes. A part
/// that has seen none (LSE -inf, or flash_attn 2's +inf) holds NaN.
void expect_formula(DType dtype, bool packed) {
  const std::vector<int64_t> rows = packed ? std::vector<int64_t>{70} : std::vector<int64_t>{2, 35};
  std::vector<int64_t> shape = rows, lse_shape = rows;
  shape.insert(shape.end(), {3, 40});
  lse_shape.insert(lse_shape.end() - 1, 3);
  const GpuTensor out_a = normal(shape, dtype, 1), out_b = normal(shape, dtype, 2);
  const GpuTensor lse_a = normal(lse_shape, float32, 3), lse_b = normal(lse_shape, float32, 4);
  const GpuTensor out(shape, dtype), lse(lse_shape, float32);
  check::Random random(5);
  const auto none = [&] { return random.chance(0.5) ? -INFINITY : INFINITY; };
  for (const GpuTensor* t : {&lse_a, &lse_b}) {
    t->set([&](int64_t) { return random.chance(0.2) ? none() : 100 * random.normal(); });
  }
  const int64_t last = rows.back();
  for (const auto& [part, statistics] : {std::pair(&out_a, &lse_a), std::pair(&out_b, &lse_b)}) {
    const std::vector<double> held = part->values(), of_rows = statistics->values();
    part->set([&](int64_t at) {
      const int64_t head = at / 40 % 3, i = at / 120 % last, batch = at / 120 / last;
      return std::isinf(of_rows[(batch * 3 + head) * last + i]) ? NAN : held[at];
    });
  }
  const GpuStream stream;
  merge(out_a, lse_a, out_b, lse_b, out, lse, stream);
  stream.synchronize();
  const std::vector<double> a = out_a.values(), b = out_b.values(), x = out.values();
  const std::vector<double> la = lse_a.values(), lb = lse_b.values(), l = lse.values();
  for (int64_t n = 0; n < static_cast<int64_t>(l.size()); ++n) {
    const int64_t i = n % last, head = n / last % 3, batch = n / last / 3;
    const bool has_a = !std::isinf(la[n]), has_b = !std::isinf(lb[n]), empty = !has_a && !has_b;
    const double top = std::max(has_a ? la[n] : -INFINITY, has_b ? lb[n] : -INFINITY);
    const double weight_a = has_a ? std::exp(la[n] - top) : 0;
    const double weight_b = has_b ? std::exp(lb[n] - top) : 0;
    const double sum = empty ? 1 : weight_a + weight_b;
    if (empty) {
      EXPECT_EQ(l[n], -INFINITY);
    } else {
      EXPECT_NEAR(l[n], top + std::log(sum), 1e-6 * (1 + std::fabs(top)));
    }
    for (int64_t d = 0; d < 40; ++d) {
      const int64_t at = ((batch * last + i) * 3 + head) * 40 + d;
      const double from_a = has_a ? a[at] : 0, from_b = has_b ? b[at] : 0;
      const double expected = (weight_a * from_a + weight_b * from_b) / sum;
      EXPECT_NEAR(x[at], expected,
                  reference::epsilon(dtype) * (std::fabs(expected) + 1e-3) +
                      1e-5 * (std::fabs(from_a) + std::fabs(from_b)));
    }
  }
}

TEST(Merge, IsItsFormula) {
  for (const DType dtype : {float32, float16, bfloat16}) {
    for (const bool packed : {false, true}) expect_formula(dtype, packed);
  }
}

}  // namespace
}  // namespace fa::test
