// The defaults of a Config. Each kernel is a template of a Config, a struct of constants. The plan
// writes a struct that derives from these defaults and has the constants that differ
// (plan/cuda/kernel_config.hpp). A Config of an attention always has `element`, the number format
// of Q, K and V, and `head_dim` and `head_dim_v`, the columns of Q and K and of V.
#pragma once

#include "common/number.h"

namespace fa::kernel {

/// The options of a problem, which every kernel of an attention is told.
struct ProblemConfig {
  static constexpr int alignment = 16;  ///< bytes: every row of every tensor begins at a multiple
  static constexpr bool packed_q = false;  ///< rows of all sequences in one tensor, by cu_seqlens
  static constexpr bool packed_k = false;
  static constexpr bool used_q = false;  ///< seqused says how many rows of a sequence count
  static constexpr bool used_k = false;
  static constexpr bool paged = false;  ///< keys lie in the pages of a cache
  static constexpr bool window_left = false;
  static constexpr bool window_right = false;  ///< causal, too
  static constexpr bool positive_scale = true;
  static constexpr bool softcap = false;
  static constexpr bool alibi = false;
  static constexpr Number bias = Number::none;
  static constexpr Number sinks = Number::none;
  static constexpr bool dropout = false;
};

/// The same, and what a backward pass is asked for.
struct GradientConfig : ProblemConfig {
  static constexpr bool deterministic = false;  ///< blocks add to dQ in an order
  static constexpr bool first_stores = false;   ///< who adds to dQ first stores
  static constexpr bool clears_sums = false;    ///< the main kernel sets dQ's sums to 0
  static constexpr bool all_seen = false;       ///< every row sees all keys of every block
  static constexpr Number dbias = Number::none;
  static constexpr bool bias_per_row = false;
  static constexpr bool bias_shared = false;
  static constexpr Number dsinks = Number::none;
};

}  // namespace fa::kernel
