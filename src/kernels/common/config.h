// What a kernel is compiled for: the defaults of a Config, the type that each kernel is a template
// of. The plan writes what differs from them (plan/kernel_config.hpp); what is off is not written.
// A Config always has `element`, and `head_dim` and `head_dim_v` in columns.
#pragma once

#include "common/number.h"

namespace fa::kernel {

/// Of every kernel of an attention: what the problem has.
struct ProblemConfig {
  static constexpr int alignment =
      16;  ///< bytes that every row of every tensor begins at a multiple of
  static constexpr bool packed_q = false;  ///< rows of all sequences in one tensor, by cu_seqlens
  static constexpr bool packed_k = false;
  static constexpr bool used_q = false;  ///< seqused says how many rows of a sequence count
  static constexpr bool used_k = false;
  static constexpr bool window_left = false;
  static constexpr bool window_right = false;  ///< causal, too
  static constexpr bool positive_scale = true;
  static constexpr bool softcap = false;
  static constexpr bool alibi = false;
  static constexpr Number bias = Number::none;
  static constexpr Number sinks = Number::none;
  static constexpr bool dropout = false;
};

}  // namespace fa::kernel
