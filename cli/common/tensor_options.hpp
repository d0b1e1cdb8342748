// The tensors among the options that form scores or their sums: what the flags of `fa run` and
// `fa info` say of each.
#pragma once

#include <iterator>
#include <optional>

#include "fa/attention.hpp"

namespace fa::cli {

struct TensorOption {
  struct Gradient {
    const char* name;
    View BackwardArgs::* argument;
  };

  const char* flag;  ///< of `fa run`, which reads it
  const char* help;
  const char* plan_flag;  ///< of `fa info --plan`, which only needs its shape
  const char* plan_help;
  View Options::* argument;
  /// [B or 1, Hq or 1, Sq or 1, Sk], of q's dtype in a plan; otherwise [Hq], or [B, Hq], of
  /// float32.
  bool of_scores = false;
  bool masks = false;  ///< -inf is one of its numbers
  std::optional<Gradient> gradient{};
};

inline constexpr TensorOption tensor_options[] = {
    {.flag = "--bias",
     .help = "added to the scores, [B or 1, Hq or 1, Sq or 1, Sk]; -inf masks",
     .plan_flag = "--bias",
     .plan_help = "a bias [1, heads, seqlen, seqlen_k] and its gradient",
     .argument = &Options::bias,
     .of_scores = true,
     .masks = true,
     .gradient = {{"dbias", &BackwardArgs::dbias}}},
    {.flag = "--sinks",
     .help = "logits in the denominator only, [Hq]",
     .plan_flag = "--sinks",
     .plan_help = "sinks and their gradient",
     .argument = &Options::sinks,
     .masks = true,
     .gradient = {{"dsinks", &BackwardArgs::dsinks}}},
    {.flag = "--alibi-slopes",
     .help = "float32 [Hq] or [B, Hq]",
     .plan_flag = "--alibi",
     .plan_help = "ALiBi slopes",
     .argument = &Options::alibi_slopes},
};
inline constexpr size_t tensor_option_count = std::size(tensor_options);

}  // namespace fa::cli
