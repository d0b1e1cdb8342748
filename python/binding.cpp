// The library's C ABI as functions of apache-tvm-ffi: called from any Python with any tensors that
// speak DLPack. What Python users see is made of these in python/flashattn; _binding.py lists the
// arguments of each in their order.
#include <dlpack/dlpack.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/tvm_ffi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "fa/fa.h"
#include "reference/reference.hpp"

namespace {

/// How the library's errors arrive in Python (there a NotImplementedError is a RuntimeError).
void check(fa_status status) {
  if (status == FA_OK) return;
  const char* kind = status == FA_INVALID_ARGUMENT ? "ValueError"
                     : status == FA_WRONG_TYPE     ? "TypeError"
                     : status == FA_UNSUPPORTED    ? "NotImplementedError"
                     : status == FA_OUT_OF_MEMORY  ? "MemoryError"
                                                   : "RuntimeError";
  throw tvm::ffi::Error(kind, fa_last_error(), "");
}

/// A tensor as the library takes it, or none. NumPy has no bfloat16: with `uint16_is_bfloat16` its
/// bits come as uint16.
class Tensor {
 public:
  Tensor() = default;
  Tensor(const DLTensor* given, bool uint16_is_bfloat16) : given_(given != nullptr) {
    if (!given_) return;
    const bool bits = uint16_is_bfloat16 && given->dtype.code == kDLUInt && given->dtype.bits == 16;
    const uint8_t code = bits ? uint8_t{kDLBfloat} : given->dtype.code;
    tensor_ = {given->data,
               {given->device.device_type, given->device.device_id},
               given->ndim,
               {code, given->dtype.bits, given->dtype.lanes},
               given->ndim == 0 ? &no_extent : given->shape,  // null would mean "not given"
               given->strides,
               given->byte_offset};
  }
  /// One without memory: DLPack's type code, the bits, the extents. Lengths (1-D integers) are 0.
  explicit Tensor(const tvm::ffi::ShapeObj& described) : given_(true) {
    const int64_t* extents = described.data + 2;
    const auto ndim = static_cast<int32_t>(described.size) - 2;
    const auto code = static_cast<uint8_t>(described.data[0]);
    if (code == kDLInt && ndim == 1) zeros_.resize(static_cast<size_t>(extents[0]));
    tensor_ = {zeros_.data(), {kDLCPU, 0}, ndim, {code, static_cast<uint8_t>(described.data[1]), 1},
               extents,       nullptr,     0};
  }
  operator const fa_tensor*() const {  // NOLINT(google-explicit-constructor): it stands for it
    return given_ ? &tensor_ : nullptr;
  }
  /// The one that is current where it lies; tvm-ffi has asked the tensors' framework for it.
  fa_stream stream() const {
    return tensor_.device.type == kDLCUDA
               ? TVMFFIEnvGetStream(tensor_.device.type, tensor_.device.id)
               : nullptr;
  }

 private:
  static constexpr int64_t no_extent = 0;
  bool given_ = false;
  fa_tensor tensor_{};
  std::vector<int64_t> zeros_;
};

/// A call's arguments, one after the other.
class Arguments {
 public:
  Arguments(const TVMFFIAny* values, int32_t count)
      : values_(reinterpret_cast<const tvm::ffi::AnyView*>(values)), count_(count) {}

  Tensor tensor(const char* name) {
    const tvm::ffi::AnyView value = next(name);
    const auto given = value.try_cast<tvm::ffi::Optional<DLTensor*>>();
    if (!given.has_value()) {
      const auto* described = value.as<tvm::ffi::ShapeObj>();
      if (described != nullptr && described->size >= 2) return Tensor(*described);
      fail(name, "a tensor on which DLPack works");
    }
    return Tensor(given->has_value() ? **given : nullptr, uint16_is_bfloat16_);
  }
  template <typename T>
  T number(const char* name) {
    const auto given = next(name).try_cast<T>();
    if (!given.has_value()) fail(name, std::is_same_v<T, bool> ? "True or False" : "a number");
    return *given;
  }
  int32_t int32(const char* name) {
    const auto given = number<int64_t>(name);
    if (given != static_cast<int32_t>(given)) {
      throw tvm::ffi::Error(
          "ValueError", std::string(name) + ": is " + std::to_string(given) + "; too large", "");
    }
    return static_cast<int32_t>(given);
  }
  /// The first argument of what takes tensors.
  void read_uint16_is_bfloat16() { uint16_is_bfloat16_ = number<bool>("uint16_is_bfloat16"); }

 private:
  tvm::ffi::AnyView next(const char* name) {
    if (at_ == count_) fail(name, "one more argument");
    return values_[at_++];
  }
  [[noreturn]] void fail(const char* name, const char* expected) const {
    const std::string got = at_ > 0 ? values_[at_ - 1].GetTypeKey() : "nothing";
    throw tvm::ffi::Error("TypeError", std::string(name) + ": is " + got + "; expected " + expected,
                          "");
  }

  const tvm::ffi::AnyView* values_;
  int32_t count_;
  int32_t at_ = 0;
  bool uint16_is_bfloat16_ = false;
};

struct TensorOption {
  const char* name;
  const fa_tensor* fa_options::* field;
};
struct NumberOption {
  const char* name;
  void (*read)(Arguments& in, const char* name, fa_options& options);
};

template <auto field>
void number(Arguments& in, const char* name, fa_options& options) {
  options.*field = in.number<std::decay_t<decltype(options.*field)>>(name);
}
template <auto field>
void flag(Arguments& in, const char* name, fa_options& options) {
  options.*field = in.number<bool>(name) ? 1 : 0;
}
template <auto field>
void int32(Arguments& in, const char* name, fa_options& options) {
  options.*field = in.int32(name);
}
void scale(Arguments& in, const char* name, fa_options& options) {
  const auto given = in.number<tvm::ffi::Optional<double>>(name);
  options.has_scale = given.has_value() ? 1 : 0;
  options.scale = given.value_or(0);
}

// What forward and backward have in common, in the order of the arguments: tensors first. The
// package compares names and order with its own at import (_binding.py).
constexpr TensorOption tensor_options[] = {
    {"alibi_slopes", &fa_options::alibi_slopes},
    {"bias", &fa_options::bias},
    {"sinks", &fa_options::sinks},
    {"dropout_state", &fa_options::dropout_state},
    {"cu_seqlens_q", &fa_options::cu_seqlens_q},
    {"cu_seqlens_k", &fa_options::cu_seqlens_k},
    {"seqused_q", &fa_options::seqused_q},
    {"seqused_k", &fa_options::seqused_k},
    {"page_table", &fa_options::page_table},
};
constexpr NumberOption number_options[] = {
    {"max_seqlen_q", number<&fa_options::max_seqlen_q>},
    {"max_seqlen_k", number<&fa_options::max_seqlen_k>},
    {"scale", scale},
    {"causal", flag<&fa_options::causal>},
    {"window_left", number<&fa_options::window_left>},
    {"window_right", number<&fa_options::window_right>},
    {"softcap", number<&fa_options::softcap>},
    {"dropout_p", number<&fa_options::dropout_p>},
    {"deterministic", flag<&fa_options::deterministic>},
    {"batch_invariant", flag<&fa_options::batch_invariant>},
    {"family", int32<&fa_options::family>},
    {"num_threads", int32<&fa_options::num_threads>},
};

/// The options' names in their order, with spaces between them.
std::string option_names(Arguments) {
  std::string names;
  for (const TensorOption& option : tensor_options) names += std::string(option.name) + ' ';
  for (const NumberOption& option : number_options) names += std::string(option.name) + ' ';
  return names;
}

class Options {
 public:
  explicit Options(Arguments& in) {
    for (size_t i = 0; i < std::size(tensor_options); ++i) {
      tensors_[i] = in.tensor(tensor_options[i].name);
      options_.*tensor_options[i].field = tensors_[i];
    }
    for (const NumberOption& option : number_options) option.read(in, option.name, options_);
  }
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;
  operator const fa_options*() const { return &options_; }  // NOLINT(google-explicit-constructor)

 private:
  std::array<Tensor, std::size(tensor_options)> tensors_;
  fa_options options_ = FA_OPTIONS_INIT;
};

void forward(Arguments in) {
  in.read_uint16_is_bfloat16();
  const Tensor q = in.tensor("q"), k = in.tensor("k"), v = in.tensor("v");
  const Tensor out = in.tensor("out"), lse = in.tensor("lse");
  const Options options(in);
  const fa_forward_args args = {sizeof args, q, k, v, out, lse};
  check(fa_forward(&args, options, q.stream()));
}

using Plan = std::unique_ptr<fa_plan, decltype(&fa_plan_destroy)>;

Plan forward_plan(Arguments in) {
  in.read_uint16_is_bfloat16();
  const Tensor q = in.tensor("q"), k = in.tensor("k"), v = in.tensor("v");
  const Tensor out = in.tensor("out"), lse = in.tensor("lse");
  const Options options(in);
  const fa_forward_args args = {sizeof args, q, k, v, out, lse};
  fa_plan* planned = nullptr;
  check(fa_plan_forward(&args, options, &planned));
  return {planned, fa_plan_destroy};
}

/// forward's errors, for tensors that have no memory.
void check_forward(Arguments in) { forward_plan(in); }

void prepare(Arguments in) { check(fa_plan_prepare(forward_plan(in).get())); }

/// backward, or only its plan, which has its errors.
void run_backward(Arguments in, bool planned) {
  in.read_uint16_is_bfloat16();
  const Tensor dout = in.tensor("dout"), q = in.tensor("q"), k = in.tensor("k");
  const Tensor v = in.tensor("v"), out = in.tensor("out"), lse = in.tensor("lse");
  const Tensor dq = in.tensor("dq"), dk = in.tensor("dk"), dv = in.tensor("dv");
  const Tensor dlse = in.tensor("dlse"), dbias = in.tensor("dbias"), dsinks = in.tensor("dsinks");
  const Options options(in);
  const fa_backward_args args = {sizeof args, dout, q,  k,    v,     out,   lse,
                                 dq,          dk,   dv, dlse, dbias, dsinks};
  if (planned) {
    fa_plan* plan = nullptr;
    check(fa_plan_backward(&args, options, &plan));
    fa_plan_destroy(plan);
  } else {
    check(fa_backward(&args, options, q.stream()));
  }
}

void backward(Arguments in) { run_backward(in, false); }
void check_backward(Arguments in) { run_backward(in, true); }

void merge(Arguments in) {
  in.read_uint16_is_bfloat16();
  const Tensor out_a = in.tensor("out_a"), lse_a = in.tensor("lse_a");
  const Tensor out_b = in.tensor("out_b"), lse_b = in.tensor("lse_b");
  const Tensor out = in.tensor("out"), lse = in.tensor("lse");
  check(fa_merge(out_a, lse_a, out_b, lse_b, out, lse, out_a.stream()));
}

/// keep [batch, heads, seqlen_q, seqlen_k] uint8 := 1 where dropout keeps the element. For tests
/// and for flash_attn's return_attn_probs, hence by the plain reference.
void dropout_keep(Arguments in) {
  const auto* keep = static_cast<const DLTensor*>(in.number<DLTensor*>("keep"));
  const auto seed = static_cast<uint64_t>(in.number<int64_t>("seed"));
  const auto offset = static_cast<uint64_t>(in.number<int64_t>("offset"));
  const auto p = in.number<double>("dropout_p");
  auto* element = static_cast<uint8_t*>(keep->data) + keep->byte_offset;
  for (int64_t b = 0; b < keep->shape[0]; ++b) {
    for (int64_t h = 0; h < keep->shape[1]; ++h) {
      for (int64_t i = 0; i < keep->shape[2]; ++i) {
        for (int64_t j = 0; j < keep->shape[3]; ++j) {
          *element++ = fa::reference::keeps(p, seed, offset, b, h, keep->shape[1], i, j) ? 1 : 0;
        }
      }
    }
  }
}

std::string info(Arguments) {
  const char* target = nullptr;
  check(fa_cpu_target(&target));
  return std::string(fa_version()) + " " + target;
}

}  // namespace

// The name that tvm-ffi looks a module's function up by.
#define FA_EXPORT(function)                                                           \
  extern "C" __attribute__((visibility("default"))) int __tvm_ffi_##function(         \
      void*, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {               \
    TVM_FFI_SAFE_CALL_BEGIN();                                                        \
    call(function, Arguments(args, count), reinterpret_cast<tvm::ffi::Any*>(result)); \
    TVM_FFI_SAFE_CALL_END();                                                          \
  }

namespace {
void call(void (*function)(Arguments), const Arguments& in, tvm::ffi::Any* result) {
  function(in);
  *result = nullptr;
}
void call(std::string (*function)(Arguments), const Arguments& in, tvm::ffi::Any* result) {
  *result = tvm::ffi::String(function(in));
}
}  // namespace

FA_EXPORT(forward)
FA_EXPORT(check_forward)
FA_EXPORT(prepare)
FA_EXPORT(backward)
FA_EXPORT(check_backward)
FA_EXPORT(merge)
FA_EXPORT(dropout_keep)
FA_EXPORT(info)
FA_EXPORT(option_names)
