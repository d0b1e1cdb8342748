#include "plan/cuda/common.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <numbers>

#include "problem/argument.hpp"

namespace fa {

void need_offered(const Problem& p) {
  if (p.dtype == float32) {
    fail(Status::unsupported, "q", "is float32; CUDA devices take float16 and bfloat16");
  }
  // The kernels' factors are float32.
  const auto need_float = [](const char* option, double value, double factor) {
    if (std::abs(factor) > FLT_MAX) {
      fail(Status::unsupported, option, "is {}: beyond the float32 that CUDA devices compute with",
           value);
    }
  };
  need_float(
      "scale", p.score.scale,
      p.score.softcap > 0 ? p.score.scale / p.score.softcap : p.score.scale * std::numbers::log2e);
  need_float("softcap", p.score.softcap, p.score.softcap * std::numbers::log2e);
  // Tiles of up to 256 rows are counted with 32 bits to their end.
  constexpr int64_t most = INT_MAX - 256;
  const auto need_few = [most](const char* name, int64_t rows) {
    if (rows > most) {
      fail(Status::unsupported, name, "has {} rows; CUDA devices take up to {}", rows, most);
    }
  };
  // The longest packed sequence is given by the caller, and may be given as longer than all tokens.
  // Packed keys behind the last sequence are tiles of the backward pass only.
  need_few("q", p.q.packed ? p.q.tokens : p.q.seqlen);
  const int64_t longest = p.k.packed ? std::min(p.k.seqlen, p.k.tokens) : p.k.seqlen;
  need_few("k", p.k.packed && p.pass == Pass::backward ? p.k.tokens : longest);
}

int64_t tiles_of_head(bool packed, int64_t seqlen, int64_t tokens, int64_t batch, int64_t size) {
  if (!packed) return ceil_div(seqlen, size);
  // Each sequence may leave a tile unfilled, and so may the tokens behind the last.
  return tokens > 0 ? tokens / size + batch + 1 : 0;
}

int checked_blocks(const char* name, int64_t blocks, int64_t size) {
  if (blocks > INT_MAX) {
    fail(Status::unsupported, name, "makes {} tiles of {} rows; CUDA devices take up to {}", blocks,
         size, INT_MAX);
  }
  return static_cast<int>(blocks);
}

// The last section had better be no small one, which would end in a few long tiles on an idle
// device (13% of a forward pass with 16 heads of 16k keys).
int64_t groups_in_section(int64_t groups, int64_t bytes, int64_t most) {
  groups = std::max<int64_t>(groups, 1);
  int64_t least = std::clamp<int64_t>(section_bytes / std::max<int64_t>(bytes, 1), 1, groups);
  if (least > most) {
    least = std::max<int64_t>(most * 3 / 4, 1);
  } else {
    most = 2 * least;
  }
  const int64_t most_sections = groups / least;
  int64_t best = least;
  double best_last = 0;  // the last section's part of a whole one
  for (int64_t sections = most_sections; sections > std::max<int64_t>(most_sections - 64, 0);
       --sections) {
    const int64_t section = ceil_div(groups, sections);
    if (section > most || best_last == 1) break;
    const int64_t rest = groups % section;
    const double last = rest == 0 ? 1 : static_cast<double>(rest) / static_cast<double>(section);
    if (last > best_last) {
      best = section;
      best_last = last;
    }
  }
  return best;
}

KernelConfig& add_problem(KernelConfig& config, const Problem& p) {
  return config.format("element", true, p.dtype)
      .number("head_dim", p.head_dim)
      .number("head_dim_v", p.head_dim_v)
      .number("alignment", p.alignment)
      .flag("packed_q", p.q.packed)
      .flag("packed_k", p.k.packed)
      .flag("used_q", p.q.used)
      // mutant "CUDA plan: seqused_k" of emulated: p.k.used => false
      .flag("used_k", p.k.used)
      .flag("paged", p.k.page_size > 0)
      .flag("window_left", p.score.window_left >= 0)
      // mutant "CUDA plan: window right" of emulated: p.score.window_right >= 0 => false
      .flag("window_right", p.score.window_right >= 0)
      // mutant "CUDA plan: negative scale" of emulated: p.score.scale => 1.0
      .flag("positive_scale", static_cast<float>(p.score.scale) > 0, true)
      .flag("softcap", p.score.softcap > 0)
      .flag("alibi", p.score.alibi)
      .format("bias", p.score.bias, p.score.bias_dtype)
      .flag("dropout", p.dropout_p > 0);
}

std::string heading(const Problem& p, const GpuLimits& gpu) {
  return fmt::format(
      "pass: {}\ndevice: cuda, {} with {} multiprocessors\ndtype: {}\nbatch: {}\n"
      "heads: {} query, {} key\nhead_dim: {}, {} of v\nseqlen: {} query, {} key{}{}\n",
      p.pass == Pass::forward ? "forward" : "backward", gpu.arch, gpu.sm_count, name(p.dtype),
      p.batch, p.q.heads, p.k.heads, p.head_dim, p.head_dim_v, p.q.seqlen, p.k.seqlen,
      p.q.packed || p.k.packed ? " (longest, packed)" : "",
      p.k.page_size > 0 ? fmt::format(", in pages of {}", p.k.page_size) : "");
}

}  // namespace fa
