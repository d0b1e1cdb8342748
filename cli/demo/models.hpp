// Attention as in well-known models.
#pragma once

#include <array>
#include <cstdint>

#include "fa/attention.hpp"

namespace fa::cli {

/// Causal self-attention of one sequence; `dtype` is that of the published weights.
struct Model {
  const char* name;
  int64_t heads_q;
  int64_t heads_k;
  int64_t head_dim;
  DType dtype;
  int64_t demo_length;  ///< what two cores do in seconds; GPT-2's is its whole context
};

inline constexpr std::array models{Model{"GPT-2", 12, 12, 64, float32, 1024},
                                   Model{"Llama 2 7B", 32, 32, 128, float16, 2048},
                                   Model{"Qwen2.5 72B", 64, 8, 128, bfloat16, 2048},
                                   Model{"Llama 3.1 405B", 128, 8, 128, bfloat16, 1024}};

/// Floating-point operations as the paper counts them: 4 Sq Sk D H B forward, half of it when
/// causal, 2.5 times that backward.
constexpr double attention_flops(double batch, double heads, double seqlen_q, double seqlen_k,
                                 double head_dim, bool causal, bool backward) {
  return 4 * batch * heads * seqlen_q * seqlen_k * head_dim * (causal ? 0.5 : 1) *
         (backward ? 2.5 : 1);
}

}  // namespace fa::cli
