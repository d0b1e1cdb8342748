// The C ABI gives what the C++ API gives, and says what is wrong with its own arguments.
#include <dlpack/dlpack.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fa/attention.hpp"
#include "fa/fa.h"

namespace {

static_assert(sizeof(fa::Tensor) == sizeof(DLTensor));
static_assert(offsetof(fa::Tensor, device) == offsetof(DLTensor, device));
static_assert(offsetof(fa::Tensor, ndim) == offsetof(DLTensor, ndim));
static_assert(offsetof(fa::Tensor, dtype) == offsetof(DLTensor, dtype));
static_assert(offsetof(fa::Tensor, shape) == offsetof(DLTensor, shape));
static_assert(offsetof(fa::Tensor, strides) == offsetof(DLTensor, strides));
static_assert(offsetof(fa::Tensor, byte_offset) == offsetof(DLTensor, byte_offset));
static_assert(int{FA_OK} == int(fa::Status::ok));
static_assert(int{FA_INVALID_ARGUMENT} == int(fa::Status::invalid_argument));
static_assert(int{FA_WRONG_TYPE} == int(fa::Status::wrong_type));
static_assert(int{FA_UNSUPPORTED} == int(fa::Status::unsupported));
static_assert(int{FA_OUT_OF_MEMORY} == int(fa::Status::out_of_memory));
static_assert(int{FA_INTERNAL} == int(fa::Status::internal));
// A later field must not hide in padding at the end of what older callers pass.
static_assert(sizeof(fa_options) == offsetof(fa_options, page_table) + sizeof(void*));

/// A tensor that owns its memory, seen by both APIs.
struct Array {
  Array(fa::DType dtype, std::vector<int64_t> extents) : shape(std::move(extents)) {
    int64_t elements = 1;
    for (const int64_t extent : shape) elements *= extent;
    memory.resize(elements * dtype.bits / 8, 0x7F);  // NaN, until something is written
    tensor.data = memory.data();
    tensor.ndim = static_cast<int32_t>(shape.size());
    tensor.dtype = dtype;
    tensor.shape = shape.data();
    std::memcpy(&c, &tensor, sizeof c);
  }
  Array(const Array&) = delete;

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(memory.data());
  }

  std::vector<int64_t> shape;
  std::vector<unsigned char> memory;
  fa::Tensor tensor;
  fa_tensor c;
};

constexpr int64_t B = 2, S = 40, Hq = 4, Hk = 2, D = 16;

/// Random inputs, and two sets of outputs to compare.
class CApi : public testing::Test {
 protected:
  struct Outputs {
    Array out{fa::float32, {B, S, Hq, D}};
    Array lse{fa::float32, {B, Hq, S}};
    Array dq{fa::float32, {B, S, Hq, D}};
    Array dk{fa::float32, {B, S, Hk, D}};
    Array dv{fa::float32, {B, S, Hk, D}};
    Array dbias{fa::float32, {B, 1, S, S}};
    Array dsinks{fa::float32, {Hq}};
  };

  CApi() {
    for (Array* array : {&q, &k, &v, &dout, &dlse, &slopes, &bias, &sinks}) fill(*array);
    fill(cpp.dbias);
    fill(cpp.dsinks);
    c.dbias.memory = cpp.dbias.memory;  // unwritten where the option is off: equal beforehand
    c.dsinks.memory = cpp.dsinks.memory;
    c.dbias.c.data = c.dbias.memory.data();
    c.dsinks.c.data = c.dsinks.memory.data();
    for (int b = 0; b < B; ++b) {
      used_q.as<int32_t>()[b] = 31 - 6 * b;
      used_k.as<int32_t>()[b] = 22 + 5 * b;
    }
    state.as<int64_t>()[0] = 1234;
    state.as<int64_t>()[1] = 5;
  }

  void fill(Array& array) {
    for (size_t i = 0; i < array.memory.size() / sizeof(float); ++i) {
      array.as<float>()[i] = std::normal_distribution<float>()(engine_);
    }
  }

  fa_forward_args forward_args() {
    return {sizeof(fa_forward_args), &q.c, &k.c, &v.c, &c.out.c, &c.lse.c};
  }
  fa_backward_args backward_args() {
    return {sizeof(fa_backward_args),
            &dout.c,
            &q.c,
            &k.c,
            &v.c,
            &c.out.c,
            &c.lse.c,
            &c.dq.c,
            &c.dk.c,
            &c.dv.c,
            nullptr,
            nullptr,
            nullptr};
  }

  /// Forward and backward through both APIs with the same option set: the same bits.
  void expect_same(const std::function<void(fa::Options&, fa_options&)>& set) {
    fa::Options options;
    fa_options c_options = FA_OPTIONS_INIT;
    set(options, c_options);
    fa::ForwardArgs forward{q.tensor, k.tensor, v.tensor, cpp.out.tensor, cpp.lse.tensor};
    fa::forward(forward, options);
    fa::BackwardArgs backward{dout.tensor,    q.tensor,       k.tensor,      v.tensor,
                              cpp.out.tensor, cpp.lse.tensor, cpp.dq.tensor, cpp.dk.tensor,
                              cpp.dv.tensor,  dlse.tensor};
    fa_backward_args c_backward = backward_args();
    c_backward.dlse = &dlse.c;
    if (options.bias.given()) {
      backward.dbias = cpp.dbias.tensor;
      c_backward.dbias = &c.dbias.c;
    }
    if (options.sinks.given()) {
      backward.dsinks = cpp.dsinks.tensor;
      c_backward.dsinks = &c.dsinks.c;
    }
    fa::backward(backward, options);
    const fa_forward_args c_forward = forward_args();
    ASSERT_EQ(fa_forward(&c_forward, &c_options, nullptr), FA_OK) << fa_last_error();
    ASSERT_EQ(fa_backward(&c_backward, &c_options, nullptr), FA_OK) << fa_last_error();
    EXPECT_EQ(cpp.out.memory, c.out.memory);
    EXPECT_EQ(cpp.lse.memory, c.lse.memory);
    EXPECT_EQ(cpp.dq.memory, c.dq.memory);
    EXPECT_EQ(cpp.dk.memory, c.dk.memory);
    EXPECT_EQ(cpp.dv.memory, c.dv.memory);
    EXPECT_EQ(cpp.dbias.memory, c.dbias.memory);
    EXPECT_EQ(cpp.dsinks.memory, c.dsinks.memory);
    EXPECT_NE(cpp.out.memory, plain_out_) << "the option changed nothing";
    plain_out_ = cpp.out.memory;
  }

  Array q{fa::float32, {B, S, Hq, D}}, k{fa::float32, {B, S, Hk, D}}, v{fa::float32, {B, S, Hk, D}};
  Array dout{fa::float32, {B, S, Hq, D}}, dlse{fa::float32, {B, Hq, S}};
  Array slopes{fa::float32, {Hq}}, bias{fa::float32, {B, 1, S, S}}, sinks{fa::float32, {Hq}};
  Array used_q{fa::int32, {B}}, used_k{fa::int32, {B}}, state{fa::int64, {2}};
  Outputs cpp, c;

 private:
  std::mt19937 engine_{1};
  std::vector<unsigned char> plain_out_;  // of the previous option
};

TEST_F(CApi, EveryOptionGivesTheBitsOfTheCppApi) {
  expect_same([](fa::Options&, fa_options&) {});
  expect_same([](fa::Options& o, fa_options& c) {
    o.scale = 0.0;  // not the same as "not given"
    c.has_scale = 1;
  });
  expect_same([](fa::Options& o, fa_options& c) {
    o.scale = c.scale = -0.5;
    c.has_scale = 1;
  });
  expect_same([](fa::Options& o, fa_options& c) { c.causal = o.causal = true; });
  expect_same([](fa::Options& o, fa_options& c) {
    o.window_left = c.window_left = 5;
    o.window_right = c.window_right = 3;
  });
  expect_same([](fa::Options& o, fa_options& c) { o.softcap = c.softcap = 0.5; });
  expect_same([](fa::Options& o, fa_options& c) {
    o.dropout_p = c.dropout_p = 0.25;
    o.dropout_seed = c.dropout_seed = 77;
    o.dropout_offset = c.dropout_offset = uint64_t{3} << 33;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.dropout_p = c.dropout_p = 0.25;
    o.dropout_state = state.tensor;
    c.dropout_state = &state.c;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.alibi_slopes = slopes.tensor;
    c.alibi_slopes = &slopes.c;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.bias = bias.tensor;
    c.bias = &bias.c;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.sinks = sinks.tensor;
    c.sinks = &sinks.c;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.seqused_q = used_q.tensor;
    c.seqused_q = &used_q.c;
  });
  expect_same([this](fa::Options& o, fa_options& c) {
    o.seqused_k = used_k.tensor;
    c.seqused_k = &used_k.c;
    c.deterministic = o.deterministic = true;
    c.batch_invariant = o.batch_invariant = true;
    o.num_threads = c.num_threads = 1;
  });
}

TEST_F(CApi, PackedSequences) {
  Array flat_q(fa::float32, {B * S, Hq, D}), flat_k(fa::float32, {B * S, Hk, D});
  Array out(fa::float32, {B * S, Hq, D}), cu_q(fa::int32, {3}), cu_k(fa::int32, {3});
  fill(flat_q);
  fill(flat_k);
  const int32_t begins_q[] = {0, 50, 80}, begins_k[] = {0, 20, 79};
  std::memcpy(cu_q.memory.data(), begins_q, sizeof begins_q);
  std::memcpy(cu_k.memory.data(), begins_k, sizeof begins_k);
  fa::Options options;
  options.cu_seqlens_q = cu_q.tensor;
  options.cu_seqlens_k = cu_k.tensor;
  options.max_seqlen_q = 50;
  options.max_seqlen_k = 59;
  fa::forward({flat_q.tensor, flat_k.tensor, flat_k.tensor, out.tensor, {}}, options);
  const auto expected = out.memory;

  fa_options c_options = FA_OPTIONS_INIT;
  c_options.cu_seqlens_q = &cu_q.c;
  c_options.cu_seqlens_k = &cu_k.c;
  c_options.max_seqlen_q = 50;
  c_options.max_seqlen_k = 59;
  const fa_forward_args args = {sizeof args, &flat_q.c, &flat_k.c, &flat_k.c, &out.c, nullptr};
  std::fill(out.memory.begin(), out.memory.end(), 0x7F);
  ASSERT_EQ(fa_forward(&args, &c_options, nullptr), FA_OK) << fa_last_error();
  EXPECT_EQ(out.memory, expected);
  c_options.max_seqlen_k = 58;
  EXPECT_EQ(fa_forward(&args, &c_options, nullptr), FA_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("max_seqlen_k"), std::string::npos);
}

TEST_F(CApi, PagesGiveTheBitsOfTheCppApi) {
  Array table{fa::int32, {B, 1}};  // k's sequences are pages, in the other order
  table.as<int32_t>()[0] = 1;
  table.as<int32_t>()[1] = 0;
  fa::Options options;
  fa_options c_options = FA_OPTIONS_INIT;
  options.page_table = table.tensor;
  c_options.page_table = &table.c;
  fa::forward({q.tensor, k.tensor, v.tensor, cpp.out.tensor, cpp.lse.tensor}, options);
  const fa_forward_args args = forward_args();
  ASSERT_EQ(fa_forward(&args, &c_options, nullptr), FA_OK) << fa_last_error();
  EXPECT_EQ(cpp.out.memory, c.out.memory);
  ASSERT_EQ(fa_forward(&args, nullptr, nullptr), FA_OK) << fa_last_error();
  EXPECT_NE(cpp.out.memory, c.out.memory) << "the table changed nothing";
}

TEST_F(CApi, PlansRunBothPasses) {
  const fa_forward_args forward = forward_args();
  const fa_backward_args backward = backward_args();
  ASSERT_EQ(fa_forward(&forward, nullptr, nullptr), FA_OK) << fa_last_error();
  ASSERT_EQ(fa_backward(&backward, nullptr, nullptr), FA_OK) << fa_last_error();
  const auto out = c.out.memory, dq = c.dq.memory;
  c.out.memory.assign(out.size(), 0);
  c.dq.memory.assign(dq.size(), 0);

  fa_plan* forward_plan = nullptr;
  fa_plan* backward_plan = nullptr;
  ASSERT_EQ(fa_plan_forward(&forward, nullptr, &forward_plan), FA_OK) << fa_last_error();
  ASSERT_EQ(fa_plan_backward(&backward, nullptr, &backward_plan), FA_OK) << fa_last_error();
  size_t forward_bytes = 0, backward_bytes = 0;
  ASSERT_EQ(fa_plan_workspace_bytes(forward_plan, &forward_bytes), FA_OK);
  ASSERT_EQ(fa_plan_workspace_bytes(backward_plan, &backward_bytes), FA_OK);
  const size_t bytes = std::max(forward_bytes, backward_bytes) + 63;
  const std::unique_ptr<void, decltype(&std::free)> workspace(
      std::aligned_alloc(64, bytes / 64 * 64), std::free);
  EXPECT_EQ(
      fa_plan_run_forward(forward_plan, &forward, nullptr, workspace.get(), forward_bytes, nullptr),
      FA_OK)
      << fa_last_error();
  EXPECT_EQ(fa_plan_run_backward(backward_plan, &backward, nullptr, workspace.get(), backward_bytes,
                                 nullptr),
            FA_OK)
      << fa_last_error();
  EXPECT_EQ(c.out.memory, out);
  EXPECT_EQ(c.dq.memory, dq);
  EXPECT_EQ(fa_plan_run_forward(backward_plan, &forward, nullptr, workspace.get(), bytes, nullptr),
            FA_INVALID_ARGUMENT);
  fa_plan_destroy(forward_plan);
  fa_plan_destroy(backward_plan);
}

TEST_F(CApi, MergeJoinsTwoHalves) {
  const fa_forward_args whole = forward_args();
  ASSERT_EQ(fa_forward(&whole, nullptr, nullptr), FA_OK) << fa_last_error();
  Array out_a(fa::float32, {B, S, Hq, D}), lse_a(fa::float32, {B, Hq, S});
  Array out_b(fa::float32, {B, S, Hq, D}), lse_b(fa::float32, {B, Hq, S});
  const int64_t shape[] = {B, S / 2, Hk, D}, strides[] = {S * Hk * D, Hk * D, D, 1};
  for (Array* array : {&k, &v}) {
    array->c.shape = shape;
    array->c.strides = strides;
  }
  const fa_forward_args first = {sizeof first, &q.c, &k.c, &v.c, &out_a.c, &lse_a.c};
  ASSERT_EQ(fa_forward(&first, nullptr, nullptr), FA_OK) << fa_last_error();
  for (Array* array : {&k, &v}) array->c.byte_offset = S / 2 * Hk * D * sizeof(float);
  const fa_forward_args second = {sizeof second, &q.c, &k.c, &v.c, &out_b.c, &lse_b.c};
  ASSERT_EQ(fa_forward(&second, nullptr, nullptr), FA_OK) << fa_last_error();
  ASSERT_EQ(fa_merge(&out_a.c, &lse_a.c, &out_b.c, &lse_b.c, &out_a.c, &lse_a.c, nullptr), FA_OK)
      << fa_last_error();
  for (int64_t i = 0; i < B * S * Hq * D; ++i) {
    ASSERT_NEAR(out_a.as<float>()[i], c.out.as<float>()[i], 1e-5) << i;
  }
}

TEST_F(CApi, NullPointersAreNamed) {
  const auto says = [](fa_status status, const std::string& message) {
    EXPECT_EQ(status, FA_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(fa_last_error()).substr(0, message.size()), message);
  };
  using Field = const fa_tensor* fa_backward_args::*;
  const std::pair<Field, const char*> required[] = {
      {&fa_backward_args::dout, "dout: is missing"}, {&fa_backward_args::q, "q: is missing"},
      {&fa_backward_args::k, "k: is missing"},       {&fa_backward_args::v, "v: is missing"},
      {&fa_backward_args::out, "out: is missing"},   {&fa_backward_args::lse, "lse: is missing"},
      {&fa_backward_args::dq, "dq: is missing"},     {&fa_backward_args::dk, "dk: is missing"},
      {&fa_backward_args::dv, "dv: is missing"}};
  for (const auto& [field, message] : required) {
    fa_backward_args args = backward_args();
    args.*field = nullptr;
    says(fa_backward(&args, nullptr, nullptr), message);
  }
  fa_forward_args args = forward_args();
  args.out = nullptr;
  says(fa_forward(&args, nullptr, nullptr), "out: is missing");
  args = forward_args();
  k.c.data = nullptr;
  says(fa_forward(&args, nullptr, nullptr), "k: has no data");
  k.c.shape = nullptr;
  says(fa_forward(&args, nullptr, nullptr), "k: its shape is a null pointer");
  says(fa_forward(nullptr, nullptr, nullptr), "args: is a null pointer");
  says(fa_backward(nullptr, nullptr, nullptr), "args: is a null pointer");
  says(fa_merge(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr),
       "out_a: is missing");
  says(fa_plan_forward(&args, nullptr, nullptr), "plan: is a null pointer");
  says(fa_plan_run_forward(nullptr, &args, nullptr, nullptr, 0, nullptr),
       "plan: is a null pointer");
  says(fa_plan_workspace_bytes(nullptr, nullptr), "plan: is a null pointer");
  says(fa_plan_text(nullptr, nullptr), "plan: is a null pointer");
  says(fa_plan_prepare(nullptr), "plan: is a null pointer");
  fa_plan_destroy(nullptr);
}

TEST_F(CApi, PlanIsNullAfterAnError) {
  auto* plan = reinterpret_cast<fa_plan*>(this);
  EXPECT_EQ(fa_plan_forward(nullptr, nullptr, &plan), FA_INVALID_ARGUMENT);
  EXPECT_EQ(plan, nullptr);
}

TEST_F(CApi, StatusTellsTheKindOfError) {
  const fa_forward_args args = forward_args();
  k.c.dtype = FA_FLOAT16;
  EXPECT_EQ(fa_forward(&args, nullptr, nullptr), FA_WRONG_TYPE);
  k.c.dtype = FA_FLOAT32;
  q.c.device = {3, 0};
  EXPECT_EQ(fa_forward(&args, nullptr, nullptr), FA_UNSUPPORTED);
}

TEST_F(CApi, ErrorsBelongToTheirThread) {
  fa_forward(nullptr, nullptr, nullptr);
  std::thread([] { EXPECT_STREQ(fa_last_error(), ""); }).join();
  EXPECT_STREQ(fa_last_error(), "args: is a null pointer");
}

/// fa_options of a header that is newer by one field.
struct LaterOptions {
  fa_options known = FA_OPTIONS_INIT;
  int64_t unknown = 0;
};

TEST_F(CApi, StructsOfOtherVersions) {
  const fa_forward_args args = forward_args();
  LaterOptions later;
  later.known.size = sizeof later;
  EXPECT_EQ(fa_forward(&args, &later.known, nullptr), FA_OK) << fa_last_error();
  later.unknown = 1;
  EXPECT_EQ(fa_forward(&args, &later.known, nullptr), FA_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("does not know that field"), std::string::npos);

  fa_options earlier = FA_OPTIONS_INIT;
  earlier.size = offsetof(fa_options, num_threads);
  earlier.num_threads = -1;  // not this header's field: not looked at
  EXPECT_EQ(fa_forward(&args, &earlier, nullptr), FA_OK) << fa_last_error();
  for (const size_t size : {size_t{0}, sizeof(size_t) - 1, size_t{4097}, ~size_t{0}}) {
    earlier.size = size;
    EXPECT_EQ(fa_forward(&args, &earlier, nullptr), FA_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(fa_last_error()).substr(0, 13), "options.size:");
  }

  fa_forward_args short_args = args;
  short_args.size = offsetof(fa_forward_args, lse);  // lse is optional
  EXPECT_EQ(fa_forward(&short_args, nullptr, nullptr), FA_OK) << fa_last_error();
  fa_options options = FA_OPTIONS_INIT;
  options.family = 3;
  EXPECT_EQ(fa_forward(&args, &options, nullptr), FA_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(fa_last_error()).substr(0, 7), "family:");
  options.family = 2;  // the CPU takes any
  EXPECT_EQ(fa_forward(&args, &options, nullptr), FA_OK) << fa_last_error();
}

TEST_F(CApi, CpuTargets) {
  const char* target = nullptr;
  const char* targets = nullptr;
  ASSERT_EQ(fa_cpu_target(&target), FA_OK) << fa_last_error();
  ASSERT_EQ(fa_cpu_targets(&targets), FA_OK) << fa_last_error();
  EXPECT_STREQ(target, fa::cpu_target());
  EXPECT_STREQ(targets, fa::cpu_targets());
  EXPECT_EQ(fa_cpu_target(nullptr), FA_INVALID_ARGUMENT);
}

TEST(Cuda, InformationAndBundlesAreThoseOfCpp) {
  const char* text = nullptr;
  ASSERT_EQ(fa_cuda_info(&text), FA_OK) << fa_last_error();
  EXPECT_EQ(text, fa::cuda_info());
  EXPECT_EQ(fa_cuda_info(nullptr), FA_INVALID_ARGUMENT);

  const auto compile = [](const char* path, const char* preset, const char* archs) {
    return fa_compile_bundle(path, preset, archs, 0, nullptr, nullptr, nullptr, nullptr);
  };
  EXPECT_EQ(compile(nullptr, "llm", "sm_80"), FA_INVALID_ARGUMENT);
  EXPECT_EQ(compile("x", nullptr, "sm_80"), FA_INVALID_ARGUMENT);
  EXPECT_EQ(compile("x", "llm", nullptr), FA_INVALID_ARGUMENT);
  EXPECT_EQ(compile("x", "none", "sm_80"), FA_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "preset: is \"none\"; allowed are llm, llm-backward");
  // A compiler's log is as long.
  const std::string preset(20000, 'p');
  EXPECT_EQ(compile("x", preset.c_str(), "sm_80"), FA_INVALID_ARGUMENT);
  EXPECT_EQ(fa_last_error(), "preset: is \"" + preset + "\"; allowed are llm, llm-backward");
  EXPECT_EQ(compile("x", "llm", ""), FA_INVALID_ARGUMENT);
  EXPECT_EQ(compile("x", "llm", "sm_80,sm_1"), FA_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(fa_last_error()).find("arch: is \"sm_1\"; allowed are sm_80"), 0U);
}

TEST_F(CApi, Versions) {
  EXPECT_EQ(fa_abi_version(), FA_ABI_VERSION);
  EXPECT_STREQ(fa_version(), fa::version());
}

/// Before anything is compiled, for which there may be no compiler.
TEST(CApiBundles, NeedAPath) {
  EXPECT_EQ(fa_compile_bundle("", "llm", "sm_80", 0, nullptr, nullptr, nullptr, nullptr),
            FA_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "path: is empty; name the bundle that is to be written");
}

TEST(CApiBundles, NegativeThreadsAreRefused) {
  for (const int32_t threads : {-1, -5, INT32_MIN}) {
    EXPECT_EQ(fa_compile_bundle("never-written", "llm", "sm_80", threads, nullptr, nullptr, nullptr,
                                nullptr),
              FA_INVALID_ARGUMENT);
    const std::string message = fa_last_error();
    EXPECT_TRUE(message.starts_with("threads: is " + std::to_string(threads))) << message;
  }
}

}  // namespace
