// The C ABI over the C++ API: pointers become tensors, exceptions become status codes.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "capi/thread_text.hpp"
#include "fa/attention.hpp"
#include "fa/fa.h"

struct fa_plan {
  fa::Plan plan;
  std::string text;
};

namespace {

fa::ThreadText last_error;  // whole messages: a compiler's log is long
fa::ThreadText cuda_text;

fa_status report(fa_status status, const char* message) noexcept {
  last_error.set(message);
  return status;
}

/// Runs the body of a C function; nothing that it throws crosses the ABI.
template <typename Body>
fa_status guarded(Body&& body) noexcept {
  try {
    body();
    return FA_OK;
  } catch (const fa::Error& error) {
    return report(static_cast<fa_status>(error.status()), error.what());
  } catch (const std::bad_alloc&) {
    return report(FA_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return report(FA_INTERNAL, error.what());
  } catch (...) {
    return report(FA_INTERNAL, "unknown exception");
  }
}

template <typename... T>
[[noreturn]] void fail(fmt::format_string<T...> format, T&&... args) {
  throw fa::Error(fa::Status::invalid_argument, fmt::format(format, std::forward<T>(args)...));
}

template <typename T>
void need(const char* name, const T* pointer) {
  if (pointer == nullptr) fail("{}: is a null pointer", name);
}

/// A struct of the caller's as this version of the library has it: `result` holds the defaults,
/// which stay where the caller's header had no such field yet.
template <typename T>
T versioned(const char* name, const T& given, T result) {
  constexpr size_t largest = 4096;  // more is no size, but a field that was never set
  if (given.size < sizeof(size_t) || given.size > largest || given.size % alignof(T) != 0) {
    fail("{}.size: is {}; set it to the struct's sizeof (here {})", name, given.size, sizeof(T));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(&given);
  const auto* unknown = std::find_if(bytes + std::min(given.size, sizeof(T)), bytes + given.size,
                                     [](unsigned char byte) { return byte != 0; });
  if (unknown != bytes + given.size) {
    fail("{}.size: is {}, and byte {} is set; this library ({}, {} bytes) does not know that field",
         name, given.size, unknown - bytes, fa::version(), sizeof(T));
  }
  std::memcpy(static_cast<void*>(&result), bytes, std::min(given.size, sizeof(T)));
  return result;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

fa::Tensor tensor(const char* name, const fa_tensor* given) {
  if (given == nullptr) return {};
  if (given->shape == nullptr) fail("{}: its shape is a null pointer", name);
  return {given->data,       {given->device.type, given->device.id},
          given->ndim,       {given->dtype.code, given->dtype.bits, given->dtype.lanes},
          given->shape,      given->strides,
          given->byte_offset};
}

fa::Options read(const fa_options* given) {
  constexpr fa_options defaults = FA_OPTIONS_INIT;
  if (given == nullptr) return {};
  const fa_options c = versioned("options", *given, defaults);
  fa::Options options;
  if (c.has_scale != 0) options.scale = c.scale;
  options.causal = c.causal != 0;
  options.window_left = c.window_left;
  options.window_right = c.window_right;
  options.softcap = c.softcap;
  options.dropout_p = c.dropout_p;
  options.dropout_seed = c.dropout_seed;
  options.dropout_offset = c.dropout_offset;
  options.dropout_state = tensor("dropout_state", c.dropout_state);
  options.alibi_slopes = tensor("alibi_slopes", c.alibi_slopes);
  options.bias = tensor("bias", c.bias);
  options.sinks = tensor("sinks", c.sinks);
  options.cu_seqlens_q = tensor("cu_seqlens_q", c.cu_seqlens_q);
  options.cu_seqlens_k = tensor("cu_seqlens_k", c.cu_seqlens_k);
  options.max_seqlen_q = c.max_seqlen_q;
  options.max_seqlen_k = c.max_seqlen_k;
  options.seqused_q = tensor("seqused_q", c.seqused_q);
  options.seqused_k = tensor("seqused_k", c.seqused_k);
  options.deterministic = c.deterministic != 0;
  options.batch_invariant = c.batch_invariant != 0;
  options.num_threads = c.num_threads;
  options.family = static_cast<fa::Family>(c.family);
  options.page_table = tensor("page_table", c.page_table);
  return options;
}

fa::ForwardArgs read(const fa_forward_args* given) {
  need("args", given);
  const fa_forward_args c = versioned("args", *given, fa_forward_args{});
  return {.q = tensor("q", c.q),
          .k = tensor("k", c.k),
          .v = tensor("v", c.v),
          .out = tensor("out", c.out),
          .lse = tensor("lse", c.lse)};
}

fa::BackwardArgs read(const fa_backward_args* given) {
  need("args", given);
  const fa_backward_args c = versioned("args", *given, fa_backward_args{});
  return {.dout = tensor("dout", c.dout),
          .q = tensor("q", c.q),
          .k = tensor("k", c.k),
          .v = tensor("v", c.v),
          .out = tensor("out", c.out),
          .lse = tensor("lse", c.lse),
          .dq = tensor("dq", c.dq),
          .dk = tensor("dk", c.dk),
          .dv = tensor("dv", c.dv),
          .dlse = tensor("dlse", c.dlse),
          .dbias = tensor("dbias", c.dbias),
          .dsinks = tensor("dsinks", c.dsinks)};
}

/// Shared by both passes: `make` is the C++ function that plans.
template <typename Args, typename Make>
fa_status make_plan(const Args* args, const fa_options* options, fa_plan** plan, Make make) {
  return guarded([&] {
    need("plan", plan);
    *plan = nullptr;
    auto made = std::make_unique<fa_plan>(fa_plan{make(read(args), read(options)), {}});
    made->text = made->plan.text();
    *plan = made.release();
  });
}

template <typename Args>
fa_status run_plan(const fa_plan* plan, const Args* args, const fa_options* options,
                   void* workspace, size_t bytes, fa_stream stream) {
  return guarded([&] {
    need("plan", plan);
    plan->plan.run(read(args), read(options), workspace, bytes, stream);
  });
}

}  // namespace

const char* fa_last_error(void) { return last_error.get(); }

fa_status fa_forward(const fa_forward_args* args, const fa_options* options, fa_stream stream) {
  return guarded([&] { fa::forward(read(args), read(options), stream); });
}

fa_status fa_backward(const fa_backward_args* args, const fa_options* options, fa_stream stream) {
  return guarded([&] { fa::backward(read(args), read(options), stream); });
}

fa_status fa_merge(const fa_tensor* out_a, const fa_tensor* lse_a, const fa_tensor* out_b,
                   const fa_tensor* lse_b, const fa_tensor* out, const fa_tensor* lse,
                   fa_stream stream) {
  return guarded([&] {
    fa::merge(tensor("out_a", out_a), tensor("lse_a", lse_a), tensor("out_b", out_b),
              tensor("lse_b", lse_b), tensor("out", out), tensor("lse", lse), stream);
  });
}

fa_status fa_plan_forward(const fa_forward_args* args, const fa_options* options, fa_plan** plan) {
  return make_plan(args, options, plan, fa::plan_forward);
}

fa_status fa_plan_backward(const fa_backward_args* args, const fa_options* options,
                           fa_plan** plan) {
  return make_plan(args, options, plan, fa::plan_backward);
}

void fa_plan_destroy(fa_plan* plan) { delete plan; }

fa_status fa_plan_workspace_bytes(const fa_plan* plan, size_t* bytes) {
  return guarded([&] {
    need("plan", plan);
    need("bytes", bytes);
    *bytes = plan->plan.workspace_bytes();
  });
}

fa_status fa_plan_text(const fa_plan* plan, const char** text) {
  return guarded([&] {
    need("plan", plan);
    need("text", text);
    *text = plan->text.c_str();
  });
}

fa_status fa_plan_prepare(const fa_plan* plan) {
  return guarded([&] {
    need("plan", plan);
    plan->plan.prepare();
  });
}

fa_status fa_plan_run_forward(const fa_plan* plan, const fa_forward_args* args,
                              const fa_options* options, void* workspace, size_t bytes,
                              fa_stream stream) {
  return run_plan(plan, args, options, workspace, bytes, stream);
}

fa_status fa_plan_run_backward(const fa_plan* plan, const fa_backward_args* args,
                               const fa_options* options, void* workspace, size_t bytes,
                               fa_stream stream) {
  return run_plan(plan, args, options, workspace, bytes, stream);
}

fa_status fa_release_memory(void) {
  return guarded([] { fa::release_memory(); });
}

fa_status fa_cpu_target(const char** target) {
  return guarded([&] {
    need("target", target);
    *target = fa::cpu_target();
  });
}

fa_status fa_cpu_targets(const char** targets) {
  return guarded([&] {
    need("targets", targets);
    *targets = fa::cpu_targets();
  });
}

fa_status fa_cuda_info(const char** text) {
  return guarded([&] {
    need("text", text);
    if (!cuda_text.set(fa::cuda_info().c_str())) throw std::bad_alloc();
    *text = cuda_text.get();
  });
}

fa_status fa_compile_bundle(const char* path, const char* preset, const char* archs,
                            int32_t threads, int64_t* kernels, int64_t* bytes, fa_progress progress,
                            void* progress_data) {
  return guarded([&] {
    need("path", path);
    need("preset", preset);
    need("archs", archs);
    const fa::BundleSize made =
        fa::compile_bundle(path, preset, split(archs), threads, [&](int64_t done, int64_t total) {
          if (progress != nullptr) progress(done, total, progress_data);
        });
    if (kernels != nullptr) *kernels = made.kernels;
    if (bytes != nullptr) *bytes = made.bytes;
  });
}

const char* fa_version(void) { return fa::version(); }

int32_t fa_abi_version(void) { return FA_ABI_VERSION; }
