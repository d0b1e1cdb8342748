// Problems of a forward pass on CUDA devices, for tests of their plans.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/cuda/forward.hpp"

namespace fa {

/// Whether a constant differs from its default.
inline bool has(const KernelSpec& kernel, const std::string& constant) {
  return (" " + kernel.constants + " ").find(" " + constant + " ") != std::string::npos;
}

/// The workspace of a plan that keeps `bytes` beside its counter of tiles, if it has one.
inline size_t with_counter(const CudaForwardPlan& plan, size_t bytes) {
  return plan.claims ? (bytes + 15) / 16 * 16 + 16 : bytes;
}

inline Problem problem(int64_t batch, int64_t seqlen_q, int64_t seqlen_k, int64_t head_dim = 128) {
  Problem p;
  p.device = {cuda_device, 0};
  p.dtype = bfloat16;
  p.batch = batch;
  p.q.heads = 32;
  p.k.heads = 8;
  p.head_dim = p.head_dim_v = head_dim;
  p.q.seqlen = seqlen_q;
  p.k.seqlen = seqlen_k;
  p.q.tokens = batch * seqlen_q;
  p.k.tokens = batch * seqlen_k;
  p.wants.lse = true;
  return p;
}

inline void give_bias(Problem& p, DType dtype, bool per_row) {
  p.score.bias = true;
  p.score.bias_dtype = dtype;
  p.score.bias_per_row = per_row;
}

/// Every option that a kernel is compiled for, set one at a time.
struct Choice {
  const char* name;
  std::function<void(Problem&)> set;
};

inline const std::vector<Choice>& choices() {
  static const std::vector<Choice> all{
      {"float16", [](Problem& p) { p.dtype = float16; }},
      {"packed_q", [](Problem& p) { p.q.packed = true; }},
      {"packed_k", [](Problem& p) { p.k.packed = true; }},
      {"used_q", [](Problem& p) { p.q.used = true; }},
      {"used_k", [](Problem& p) { p.k.used = true; }},
      {"causal", [](Problem& p) { p.score.window_right = 0; }},
      {"window_left", [](Problem& p) { p.score.window_left = 1000; }},
      {"negative scale", [](Problem& p) { p.score.scale = -1; }},
      {"zero scale", [](Problem& p) { p.score.scale = 0; }},
      {"softcap", [](Problem& p) { p.score.softcap = 20; }},
      {"dropout", [](Problem& p) { p.dropout_p = 0.1; }},
      {"alibi", [](Problem& p) { p.score.alibi = true; }},
      {"bias of keys", [](Problem& p) { give_bias(p, bfloat16, false); }},
      {"bias", [](Problem& p) { give_bias(p, bfloat16, true); }},
      {"float32 bias", [](Problem& p) { give_bias(p, float32, true); }},
      {"unaligned bias",
       [](Problem& p) {
         give_bias(p, bfloat16, true);
         p.score.bias_aligned = false;
       }},
      {"sinks", [](Problem& p) { p.score.sinks = true, p.score.sinks_dtype = float32; }},
      {"no lse", [](Problem& p) { p.wants.lse = false; }},
      {"alignment 8", [](Problem& p) { p.alignment = 8; }},
      {"alignment 4", [](Problem& p) { p.alignment = 4; }},
      {"alignment 2", [](Problem& p) { p.alignment = 2; }},
  };
  return all;
}

/// Long, short and decoding: what tiles may be chosen by.
inline std::vector<Problem> shapes(int64_t head_dim = 128) {
  return {problem(2, 8192, 8192, head_dim), problem(32, 512, 512, head_dim),
          problem(1, 1, 8192, head_dim), problem(64, 1, 8192, head_dim)};
}

/// Calls f(problem, name) for each pair of head_dims with each option, and with none.
template <typename F>
void for_each_option(const std::vector<int64_t>& head_dims, const F& f) {
  std::vector<Choice> options = choices();
  options.push_back({"none", [](Problem&) {}});
  for (const int64_t head_dim : head_dims) {
    for (const int64_t head_dim_v : head_dims) {
      for (const Choice& option : options) {
        Problem p = shapes()[(head_dim + head_dim_v) / 8 % 4];
        p.head_dim = head_dim;
        p.head_dim_v = head_dim_v;
        option.set(p);
        f(p, option.name);
      }
    }
  }
}

}  // namespace fa
