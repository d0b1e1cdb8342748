#include "tiles/work.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string_view>

#include "check/random.hpp"
#include "problem/argument.hpp"
#include "tiles/number.hpp"

namespace fa::bench {

namespace {

// Lengths of texts, as bench/compare.py packs them.
constexpr double median_length = 512;
constexpr double least_length = 8, most_length = 8192;
constexpr int64_t most_sequences = 1 << 16;

/// Pairs of a query and a key that it sees, in one head of one sequence.
double pairs(const Work& work, int64_t rows, int64_t keys) {
  if (work.window < 0) {
    return static_cast<double>(rows) * static_cast<double>(keys) * (work.causal ? 0.5 : 1);
  }
  int64_t seen = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t own = i + keys - rows;
    const int64_t end = work.causal ? std::min(own + 1, keys) : keys;
    seen += std::max<int64_t>(end - std::max<int64_t>(own - work.window, 0), 0);
  }
  return static_cast<double>(seen);
}

std::vector<int64_t> draw_lengths(std::string_view text) {
  const size_t colon = text.find(':');
  const auto count = parse_number(text.substr(0, colon));
  const auto seed = colon == text.npos ? std::nullopt : parse_number(text.substr(colon + 1));
  if (!count || !seed || *count < 1 || *count > most_sequences || *seed < 0) {
    fail(Status::invalid_argument, "--packed",
         "is lognormal:{}; allowed is lognormal:COUNT:SEED with 1 to {} sequences", text,
         most_sequences);
  }
  check::Random random(static_cast<uint64_t>(*seed));
  std::vector<int64_t> lengths;
  for (int64_t n = 0; n < *count; ++n) {
    const double length = median_length * std::exp(double{random.normal()});
    lengths.push_back(std::llround(std::clamp(length, least_length, most_length)));
  }
  return lengths;
}

}  // namespace

int64_t Work::tokens_q() const {
  return lengths.empty() ? batch * seqlen_q
                         : std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

int64_t Work::tokens_k() const { return lengths.empty() ? batch * seqlen_k : tokens_q(); }

double Work::flops() const {
  double all = 0;
  for (const int64_t length : lengths) all += pairs(*this, length, length);
  if (lengths.empty()) all = static_cast<double>(batch) * pairs(*this, seqlen_q, seqlen_k);
  return 2 * all * static_cast<double>((head_dim + head_dim_v) * heads_q);
}

std::string Work::text() const {
  std::string text =
      fmt::format("{}, head_dim {}, {} of v, {} query and {} key heads, ",
                  dtype == bfloat16 ? "bf16" : "fp16", head_dim, head_dim_v, heads_q, heads_k);
  text +=
      lengths.empty()
          ? fmt::format("batch {}, seqlen {} query, {} key", batch, seqlen_q, seqlen_k)
          : fmt::format("{} packed sequences of {} tokens, up to {}", batch, tokens_q(), seqlen_q);
  if (causal) text += ", causal";
  if (window >= 0) text += fmt::format(", window {}", window);
  if (softcap > 0) text += fmt::format(", softcap {}", softcap);
  if (dropout_p > 0) text += fmt::format(", dropout {}", dropout_p);
  if (alibi) text += ", alibi";
  if (bias != Bias::none) text += bias == Bias::keys ? ", bias of keys" : ", bias of rows";
  if (family != Family::automatic) text += family == Family::sm80 ? ", sm80" : ", sm90";
  return text;
}

std::vector<int64_t> parse_lengths(const std::string& text) {
  constexpr std::string_view drawn = "lognormal:";
  if (text.starts_with(drawn)) return draw_lengths(std::string_view(text).substr(drawn.size()));
  std::vector<int64_t> lengths;
  for (const std::string_view part : split(text)) {
    const auto length = parse_number(part);
    if (!length || *length < 1 || *length > INT32_MAX) {
      fail(Status::invalid_argument, "--packed",
           "is {}; allowed are lengths of 1 or more between commas, or lognormal:COUNT:SEED", text);
    }
    lengths.push_back(*length);
  }
  return lengths;
}

std::vector<int32_t> cu_seqlens(const Work& work) {
  std::vector<int32_t> begins{0};
  for (const int64_t length : work.lengths) {
    begins.push_back(begins.back() + static_cast<int32_t>(length));
  }
  return begins;
}

std::vector<float> alibi_slopes(const Work& work) {
  std::vector<float> slopes;
  for (int64_t head = 1; head <= work.heads_q; ++head) {
    slopes.push_back(std::exp2(-8 * static_cast<float>(head) / static_cast<float>(work.heads_q)));
  }
  return slopes;
}

std::vector<uint16_t> bias_numbers(const Work& work) {
  std::vector<uint16_t> numbers((work.bias == Bias::rows ? work.seqlen_q : 1) * work.seqlen_k);
  for (size_t n = 0; n < numbers.size(); ++n) {  // 1 to 2, or -1 to -2, in either format
    numbers[n] =
        static_cast<uint16_t>(work.dtype == bfloat16 ? 0x3f80 + n % 128 : 0x3c00 + n % 1024);
    if (n % 3 == 0) numbers[n] |= 0x8000;
  }
  return numbers;
}

Call call_of(const Work& w, const Addresses& at, Device device, Data data) {
  const bool packed = !w.lengths.empty();
  const auto view = [&](std::byte* where, int64_t seqlen, int64_t heads, int64_t width) {
    if (packed) return View(where, w.dtype, {w.tokens_q(), heads, width}, {}, device);
    return View(where, w.dtype, {w.batch, seqlen, heads, width}, {}, device);
  };
  const View q = view(at.q, w.seqlen_q, w.heads_q, w.head_dim);
  const View k = view(at.k, w.seqlen_k, w.heads_k, w.head_dim);
  const View v = view(at.v, w.seqlen_k, w.heads_k, w.head_dim_v);
  const View out = view(at.out, w.seqlen_q, w.heads_q, w.head_dim_v);
  const View lse = packed ? View(at.lse, float32, {w.heads_q, w.tokens_q()}, {}, device)
                          : View(at.lse, float32, {w.batch, w.heads_q, w.seqlen_q}, {}, device);
  const View begins(at.cu_seqlens, int32, {w.batch + 1}, {}, device);
  const View slopes(at.alibi_slopes, float32, {w.heads_q}, {}, device);
  const View bias(at.bias, w.dtype, {1, 1, w.bias == Bias::rows ? w.seqlen_q : 1, w.seqlen_k}, {},
                  device);
  Options options{.causal = w.causal,
                  .window_left = w.window,
                  .softcap = w.softcap,
                  .dropout_p = w.dropout_p,
                  .dropout_seed = 1,
                  .family = w.family};
  if (w.alibi) options.alibi_slopes = slopes;
  if (w.bias != Bias::none) options.bias = bias;
  if (packed) {
    options.cu_seqlens_q = options.cu_seqlens_k = begins;
    options.max_seqlen_q = options.max_seqlen_k = w.seqlen_q;
  }
  return validate(ForwardArgs{q, k, v, out, lse}, options, data);
}

}  // namespace fa::bench
