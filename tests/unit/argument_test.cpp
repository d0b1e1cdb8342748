// A wrong argument gives an error that names it, its value and what is allowed; nothing is written.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "argument_case.hpp"
#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::Status;
using fa::Tensor;
using fa::test::Case;
using fa::test::expect_error;
using fa::test::Floats;
using fa::test::Ints;

using Spoil = std::function<void(Case&)>;

void forward_fails(const Spoil& spoil, Status status, std::vector<std::string> words) {
  Case c;
  spoil(c);
  expect_error({status, std::move(words)}, [&] { fa::forward(c.forward, c.options); });
  for (const float x : c.out.data) ASSERT_EQ(x, 7) << "out was written";
  for (const float x : c.lse.data) ASSERT_EQ(x, 7) << "lse was written";
}

void backward_fails(const Spoil& spoil, Status status, std::vector<std::string> words) {
  Case c;
  spoil(c);
  expect_error({status, std::move(words)}, [&] { fa::backward(c.backward, c.options); });
  for (const Floats* t : {&c.dq, &c.dk, &c.dv}) {
    for (const float x : t->data) ASSERT_EQ(x, 7) << "a gradient was written";
  }
}

constexpr Status invalid = Status::invalid_argument;
constexpr Status wrong_type = Status::wrong_type;
constexpr Status unsupported = Status::unsupported;

TEST(Arguments, TheUnspoiledCaseIsRight) {
  Case c;
  EXPECT_NO_THROW(fa::forward(c.forward, c.options));
  EXPECT_NO_THROW(fa::backward(c.backward, c.options));
}

TEST(Arguments, Missing) {
  forward_fails([](Case& c) { c.forward.q = {}; }, invalid, {"q:", "missing"});
  forward_fails([](Case& c) { c.forward.out = {}; }, invalid, {"out:", "missing"});
  forward_fails([](Case& c) { c.forward.v.data = nullptr; }, invalid, {"v:", "null"});
  backward_fails([](Case& c) { c.backward.lse = {}; }, invalid, {"lse:", "missing"});
  backward_fails([](Case& c) { c.backward.dk = {}; }, invalid, {"dk:", "missing"});
}

TEST(Arguments, Shapes) {
  static const int64_t three[] = {2, 5, 3, 16};
  forward_fails([](Case& c) { c.forward.k.shape = three; }, invalid, {"k:", "3", "multiple"});
  static const int64_t odd[] = {2, 3, 4, 12};
  forward_fails([](Case& c) { c.forward.q.shape = odd; }, invalid, {"q:", "12", "8 to 512"});
  static const int64_t batch[] = {1, 5, 2, 16};
  forward_fails([](Case& c) { c.forward.k.shape = batch; }, invalid, {"k:", "1", "2"});
  static const int64_t short_v[] = {2, 4, 2, 24};
  forward_fails([](Case& c) { c.forward.v.shape = short_v; }, invalid, {"v:", "[2, 4, 2, 24]"});
  static const int64_t negative[] = {2, -3, 4, 16};
  forward_fails([](Case& c) { c.forward.q.shape = negative; }, invalid, {"q:", "-3"});
  forward_fails([](Case& c) { c.forward.q.ndim = 3; }, invalid, {"q:", "4 dimensions"});
  static const int64_t lse[] = {2, 3, 4};
  forward_fails([](Case& c) { c.forward.lse.shape = lse; }, invalid, {"lse:", "[2, 4, 3]"});
  backward_fails([](Case& c) { c.backward.dq = c.dk; }, invalid, {"dq:", "[2, 5, 2, 16]"});
  static const int64_t huge[] = {int64_t{1} << 40, int64_t{1} << 40, 4, 16};
  forward_fails([](Case& c) { c.forward.q.shape = huge; }, invalid, {"q:", "2^63"});
}

TEST(Arguments, TypesAndDevices) {
  forward_fails([](Case& c) { c.forward.q.dtype = fa::int32; }, wrong_type, {"q:", "int32"});
  forward_fails([](Case& c) { c.forward.k.dtype = fa::float16; }, wrong_type,
                {"k:", "float16", "float32"});
  forward_fails([](Case& c) { c.forward.lse.dtype = fa::float16; }, wrong_type, {"lse:"});
  forward_fails([](Case& c) { c.forward.q.device.type = 3; }, unsupported, {"q:", "3"});
  forward_fails([](Case& c) { c.forward.v.device.type = 2; }, invalid, {"v:", "cpu:0"});
}

TEST(Arguments, OtherDtypesAreNamed) {
  const std::pair<fa::DType, const char*> named[] = {
      {{255, 255, 65535}, "unknown type 255 (255 bits)x65535"},
      {{2, 255, 65535}, "float255x65535"},
      {{5, 128, 1}, "complex128"},
      {{6, 8, 1}, "bool"},
      {{10, 8, 1}, "float8_e4m3fn"},
      {{12, 8, 1}, "float8_e5m2"},
      {{17, 4, 2}, "float4_e2m1fnx2"},
      {{3, 64, 1}, "handle64"},
      {{0, 0, 0}, "int0x0"},
      {{1, 1, 1}, "uint1"}};
  for (const auto& [dtype, name] : named) {
    const std::vector<std::string> words{"q: has dtype " + std::string(name) + ";",
                                         "allowed: float32, float16, bfloat16"};
    forward_fails([&](Case& c) { c.forward.q.dtype = dtype; }, wrong_type, words);
    // The first error is told, whatever else is wrong.
    forward_fails(
        [&](Case& c) {
          c.forward.q.dtype = dtype;
          c.forward.q.byte_offset = 3;
        },
        wrong_type, words);
  }
  static const Floats broad({1, 1, 1, 5});
  forward_fails(
      [](Case& c) {
        c.options.bias = broad;
        c.options.bias.dtype = {6, 8, 1};
      },
      wrong_type, {"bias: has dtype bool; allowed: float32"});
}

TEST(Arguments, Addresses) {
  // Garbage that leads out of the address space, by offset or by strides, is no address.
  forward_fails([](Case& c) { c.forward.q.byte_offset = ~uint64_t{0} - 63; }, invalid,
                {"q:", "byte_offset 18446744073709551552", "out of the address space"});
  const int64_t far = int64_t{1} << 50;
  for (const int64_t stride : {far, -far}) {
    static int64_t strides[] = {0, 4 * 16, 16, 1};
    strides[0] = stride;
    const auto spoil = [&](Case& c) {
      c.forward.q.strides = strides;
      if (stride < 0) return;
      // NOLINTNEXTLINE(performance-no-int-to-ptr): where nothing lies
      c.forward.q.data = reinterpret_cast<void*>(~uintptr_t{0} - (uintptr_t{1} << 51) + 1);
    };
    forward_fails(spoil, invalid, {"q:", "strides", "out of the address space"});
  }
}

TEST(Arguments, Strides) {
  static const int64_t last[] = {3 * 4 * 16, 4 * 16, 16, 2};
  forward_fails([](Case& c) { c.forward.q.strides = last; }, invalid, {"q:", "last must be 1"});
  static const int64_t shared[] = {3 * 4 * 24, 4 * 24, 8, 1};
  forward_fails([](Case& c) { c.forward.out.strides = shared; }, invalid,
                {"out:", "may not share memory"});
  forward_fails([](Case& c) { c.forward.q.byte_offset = 2; }, invalid, {"q:", "multiple of its 4"});
  static const int64_t far[] = {int64_t{1} << 60, 4 * 16, 16, 1};
  forward_fails([](Case& c) { c.forward.q.strides = far; }, invalid, {"q:", "2^56"});
  static const int64_t least[] = {std::numeric_limits<int64_t>::min(), 4 * 16, 16, 1};
  forward_fails([](Case& c) { c.forward.q.strides = least; }, invalid, {"q:", "2^56"});
}

TEST(Arguments, Overlaps) {
  forward_fails([](Case& c) { c.forward.out.data = c.forward.v.data; }, invalid,
                {"out:", "shares memory with v"});
  backward_fails([](Case& c) { c.backward.dv.data = c.backward.v.data; }, invalid,
                 {"dv:", "shares memory with v"});
  backward_fails([](Case& c) { c.backward.dk.data = static_cast<float*>(c.backward.dq.data) + 8; },
                 invalid, {"dq:", "shares memory with dk"});
}

TEST(Arguments, InterleavedGradientsOfOnePackedTensorAreNoOverlap) {
  // [B, S, 3, H, D] with dq, dk, dv side by side, as a fused projection's gradient.
  Floats x({2, 3, 3, 4, 16}, 1), dx({2, 3, 3, 4, 16}), out({2, 3, 4, 16}, 1), lse({2, 4, 3});
  const auto part = [](Floats& t, int which) {
    return fa::View(t.data.data() + which * 64, fa::float32, {2, 3, 4, 16}, {576, 192, 16, 1});
  };
  EXPECT_NO_THROW(fa::backward(out, part(x, 0), part(x, 1), part(x, 2), out, lse, part(dx, 0),
                               part(dx, 1), part(dx, 2)));
}

TEST(Arguments, AnOutputInTheHolesOfAnInputIsNoOverlap) {
  // The input is broadcast over its heads, so that its elements number as many as its span has
  // room.
  Floats memory({64}, 1), k({2, 1, 1, 8}, 1), v({2, 1, 1, 8}, 1);
  const auto view = [&](int64_t first, std::initializer_list<int64_t> strides) {
    return fa::View(memory.data.data() + first, fa::float32, {2, 1, 2, 8}, strides);
  };
  EXPECT_NO_THROW(fa::forward(view(0, {24, 8, 0, 1}), k, v, view(8, {24, 8, 8, 1}), Tensor{}));
}

TEST(Arguments, OutputsOfUnlikeStridesAreSeen) {
  Floats memory({300}, 1), k({2, 1, 1, 8}, 1), v({2, 1, 1, 8}, 1);
  const fa::View q(memory.data.data() + 20, fa::float32, {2, 2, 1, 8}, {38, 78, 26, 1});
  const fa::View out(memory.data.data() + 37, fa::float32, {2, 2, 1, 8}, {40, 16, -16, 1});
  expect_error({invalid, {"out:", "shares memory with q"}},
               [&] { fa::forward(q, k, v, out, Tensor{}); });
}

TEST(Arguments, ViewsKeepTheirExtents) {
  // Each of these was made of temporaries that are gone, or overwritten, when it is used.
  Case c;
  Floats bias({1, 1, 3, 5}, 1);
  {
    std::vector<int64_t> shape{1, 1, 3, 5}, strides{15, 15, 5, 1};
    c.options.bias = fa::View(bias.data.data(), fa::float32, shape.data(), strides.data(), 4);
    c.options.sinks = Floats({4}, 1);
    c.options.sinks.data = bias.data.data();
    const std::vector<int64_t> of_q{2, 3, 4, 16};
    const Tensor q{c.q.data.data(), {}, 4, fa::float32, of_q.data(), nullptr, 0};
    c.forward.q = q;
    std::fill(shape.begin(), shape.end(), -1);
    std::fill(strides.begin(), strides.end(), -1);
  }
  const fa::Options copied = c.options;
  c.options.bias = fa::View(nullptr, fa::int32, {1});
  EXPECT_NO_THROW(fa::forward(c.forward, copied));
  fa::Options moved;
  moved = fa::Options(copied);
  moved.bias = moved.bias;
  EXPECT_NO_THROW(fa::forward(c.forward, moved));
  EXPECT_NE(copied.bias.shape, moved.bias.shape) << "its own";
  EXPECT_FALSE(fa::Options().bias.given());
}

TEST(Arguments, ViewsOfTooManyDimensions) {
  const std::vector<int64_t> nine(9, 1);
  expect_error({invalid, {"View:", "9 dimensions", "0 to 8"}},
               [&] { (void)fa::View(nullptr, fa::float32, {1, 1, 1, 1, 1, 1, 1, 1, 1}); });
  Case c;
  c.forward.q = Tensor{c.q.data.data(), {}, 9, fa::float32, nine.data(), nullptr, 0};
  expect_error({invalid, {"q:", "9 dimensions", "0 to 8"}}, [&] { fa::forward(c.forward); });
}

TEST(Arguments, Numbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  forward_fails([&](Case& c) { c.options.scale = infinity; }, invalid, {"scale:", "inf"});
  forward_fails([&](Case& c) { c.options.scale = std::nan(""); }, invalid, {"scale:", "nan"});
  forward_fails([&](Case& c) { c.options.softcap = -1; }, invalid, {"softcap:", "-1"});
  forward_fails([&](Case& c) { c.options.softcap = 1e-60; }, invalid, {"softcap:", "1e-60"});
  forward_fails([&](Case& c) { c.options.dropout_p = 1; }, invalid, {"dropout_p:", "less than 1"});
  forward_fails([&](Case& c) { c.options.dropout_p = -0.1; }, invalid, {"dropout_p:", "-0.1"});
  forward_fails([&](Case& c) { c.options.dropout_p = std::nan(""); }, invalid, {"dropout_p:"});
  forward_fails([&](Case& c) { c.options.num_threads = -1; }, invalid, {"num_threads:", "-1"});
  forward_fails([&](Case& c) { c.options.family = fa::Family{-1}; }, invalid, {"family:", "-1"});
}

TEST(Arguments, EmptyTensorsHaveAnyStrides) {
  const int64_t zeros[] = {0, 0, 0, 0};  // as NumPy has it
  const int64_t shape[] = {0, 3, 4, 16};
  Case c;
  for (Tensor* t : {&c.forward.q, &c.forward.k, &c.forward.v, &c.forward.out}) {
    t->shape = shape;
    t->strides = zeros;
  }
  c.forward.lse = {};
  fa::forward(c.forward);
}

TEST(Arguments, BatchTimesHeadsMustNotOverflow) {
  const int64_t many = int64_t{1} << 32;
  const fa::View q(nullptr, fa::float32, {0, many, 8}), k(nullptr, fa::float32, {0, many, 8});
  fa::Options options;
  const fa::View cu(nullptr, fa::int32, {many + 1});
  options.cu_seqlens_q = options.cu_seqlens_k = cu;
  const fa::ForwardArgs args{q, k, k, q, {}};
  expect_error({Status::invalid_argument, {"q:", "batch"}},
               [&] { (void)fa::plan_forward(args, options); });
}

TEST(Arguments, HeadsOfAnEmptyBatchMustNotOverflow) {
  const int64_t many = int64_t{1} << 56;
  const fa::View q(nullptr, fa::float32, {0, 1, many, 96});
  expect_error({Status::invalid_argument, {"q:", "heads 72057594037927936"}},
               [&] { (void)fa::plan_forward({q, q, q, q, {}}); });
  expect_error({Status::invalid_argument, {"q:", "heads"}},
               [&] { (void)fa::plan_backward({q, q, q, q, q, q, q, q, q}); });
}

TEST(Arguments, OptionalTensors) {
  static const Floats slopes({3}), bias({2, 4, 2, 5}), sinks({5}), state({2});
  forward_fails([](Case& c) { c.options.alibi_slopes = slopes; }, invalid,
                {"alibi_slopes:", "[4]"});
  forward_fails([](Case& c) { c.options.bias = bias; }, invalid, {"bias:", "dimension 2"});
  forward_fails([](Case& c) { c.options.sinks = sinks; }, invalid, {"sinks:", "[4]"});
  forward_fails([](Case& c) { c.options.dropout_state = state; }, wrong_type,
                {"dropout_state:", "int64"});
  static Floats dbias({2, 4, 3, 5}), dsinks({4});
  backward_fails([](Case& c) { c.backward.dbias = dbias; }, invalid, {"dbias:", "without bias"});
  backward_fails([](Case& c) { c.backward.dsinks = dsinks; }, invalid,
                 {"dsinks:", "without sinks"});
  static const Floats broad({1, 4, 3, 5});
  backward_fails(
      [](Case& c) {
        c.options.bias = broad;
        c.backward.dbias = dbias;
      },
      invalid, {"dbias:", "unlike bias"});
}

TEST(Arguments, Lengths) {
  static const Ints<int32_t> too_long({3, 6}), negative({-1, 2}), three({1, 1, 1});
  forward_fails([](Case& c) { c.options.seqused_k = too_long; }, invalid,
                {"seqused_k:", "6", "sequence 1"});
  forward_fails([](Case& c) { c.options.seqused_q = negative; }, invalid, {"seqused_q:", "-1"});
  forward_fails([](Case& c) { c.options.seqused_q = three; }, invalid, {"seqused_q:", "[2]"});
  static const Ints<int64_t> wide({1, 1});
  forward_fails([](Case& c) { c.options.seqused_q = wide; }, wrong_type, {"seqused_q:", "int64"});
  forward_fails([](Case& c) { c.options.max_seqlen_q = 3; }, invalid, {"max_seqlen_q:", "packed"});
}

TEST(Arguments, PageTables) {
  // Five pages of four keys, two for each of two sequences.
  Floats q({2, 3, 4, 16}), k({5, 4, 2, 16}), v({5, 4, 2, 24}), out({2, 3, 4, 24}), lse({2, 4, 3});
  const auto call = [&](std::vector<int32_t> pages, const std::vector<int64_t>& shape,
                        const std::vector<int32_t>& used, const Floats& values) {
    const Ints<int32_t> numbers(std::move(pages)), lengths(used);
    Tensor table = numbers;
    table.ndim = static_cast<int32_t>(shape.size());
    table.shape = shape.data();
    fa::Options options;
    options.page_table = table;
    if (!used.empty()) options.seqused_k = lengths;
    fa::forward(q, k, values, out, lse, options);
  };
  const auto fails = [&](const std::vector<int32_t>& pages, const std::vector<int64_t>& shape,
                         const std::vector<int32_t>& used, std::vector<std::string> words) {
    expect_error({invalid, std::move(words)}, [&] { call(pages, shape, used, v); });
  };
  EXPECT_NO_THROW(call({0, 4, 4, 2}, {2, 2}, {}, v));
  EXPECT_NO_THROW(call({0, -1, 4, 99}, {2, 2}, {4, 1}, v));  // what does not count is not read
  fails({0, 5, 1, 2}, {2, 2}, {}, {"page_table:", "5", "page 1 of sequence 0", "0 to 4"});
  fails({0, 1, 2, -1}, {2, 2}, {8, 5}, {"page_table:", "-1", "page 1 of sequence 1"});
  fails({0, 1, 2, 3}, {2, 2}, {8, 9}, {"seqused_k:", "9", "sequence 1"});
  fails({0, 1, 2}, {3, 1}, {}, {"page_table:", "batch of 3"});
  fails({0, 1, 2, 3}, {4}, {}, {"page_table:", "[batch, pages of a sequence]"});
  Floats other({5, 3, 2, 24});
  expect_error({invalid, {"v:", "[pages, page_size, heads, head_dim]"}},
               [&] { call({0, 1, 2, 3}, {2, 2}, {}, other); });
  static const Ints<int32_t> table({0, 1});
  backward_fails([](Case& c) { c.options.page_table = table; }, unsupported,
                 {"page_table:", "forward pass only"});
  static const Ints<int32_t> cu_seqlens({0, 5, 10});
  forward_fails(
      [](Case& c) {
        c.options.page_table = table;
        c.options.cu_seqlens_k = cu_seqlens;
      },
      invalid, {"page_table:", "cu_seqlens_k"});
  static const Ints<int64_t> wide({0, 1});
  forward_fails([](Case& c) { c.options.page_table = wide; }, wrong_type, {"page_table:", "int64"});
}

TEST(Arguments, PackedSequences) {
  Floats q({6, 4, 16}), k({10, 2, 16}), v({10, 2, 24}), out({6, 4, 24}), lse({4, 6});
  const auto fails = [&](std::vector<int32_t> cu, int64_t max, std::vector<std::string> words) {
    const Ints<int32_t> cu_q(std::move(cu)), cu_k({0, 5, 10});
    fa::Options options;
    options.cu_seqlens_q = cu_q;
    options.cu_seqlens_k = cu_k;
    options.max_seqlen_q = max;
    options.max_seqlen_k = 5;
    expect_error({invalid, std::move(words)}, [&] { fa::forward(q, k, v, out, lse, options); });
  };
  fails({1, 3, 6}, 3, {"cu_seqlens_q:", "begins with 1"});
  fails({0, 4, 3}, 4, {"cu_seqlens_q:", "falls from 4 to 3"});
  fails({0, 3, 7}, 4, {"cu_seqlens_q:", "7", "6 tokens"});
  fails({0, 3, 6}, 2, {"cu_seqlens_q:", "max_seqlen_q allows 2"});
  fails({0, 3, 6}, -1, {"max_seqlen_q:", "-1"});
  fails({0, 3, 3, 6}, 3, {"cu_seqlens_k:", "batch of 2"});
  const Ints<int32_t> cu_q({0, 3, 6});
  const Floats bias({1, 1, 1, 5});
  fa::Options options;
  options.cu_seqlens_q = cu_q;
  options.max_seqlen_q = 3;
  options.bias = bias;
  Floats k4({2, 5, 2, 16}), v4({2, 5, 2, 24});
  expect_error({unsupported, {"bias:", "packed"}},
               [&] { fa::forward(q, k4, v4, out, lse, options); });
}

TEST(Arguments, Merge) {
  Floats a({2, 3, 4, 8}), b({2, 3, 4, 8}), lse_a({2, 4, 3}), lse_b({2, 4, 3});
  Floats odd({2, 3, 4, 9}), short_lse({2, 4, 2});
  EXPECT_NO_THROW(fa::merge(a, lse_a, b, lse_b, a, lse_a)) << "in place";
  EXPECT_NO_THROW(fa::merge(a, lse_a, b, lse_b, b, lse_b)) << "in place";
  expect_error({invalid, {"out_b:", "[2, 3, 4, 9]"}},
               [&] { fa::merge(a, lse_a, odd, lse_b, a, lse_a); });
  expect_error({invalid, {"lse_b:", "[2, 4, 2]"}},
               [&] { fa::merge(a, lse_a, b, short_lse, a, lse_a); });
  expect_error({invalid, {"lse:", "missing"}}, [&] { fa::merge(a, lse_a, b, lse_b, a, Tensor{}); });
  Floats all({8, 3, 4, 8});
  const fa::View shifted(all.data.data() + 32, fa::float32, {2, 3, 4, 8});
  const fa::View start(all.data.data(), fa::float32, {2, 3, 4, 8});
  expect_error({invalid, {"out:", "shares memory with out_a"}},
               [&] { fa::merge(start, lse_a, b, lse_b, shifted, lse_a); });
}

}  // namespace
