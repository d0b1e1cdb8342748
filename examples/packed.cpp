// Sequences of different lengths in one call, packed without padding; each must come out as if it
// were alone.
#include <cmath>
#include <cstdio>
#include <fa/attention.hpp>
#include <random>
#include <vector>

constexpr int64_t heads = 2, head_dim = 64, width = heads * head_dim;

int main() {
  const std::vector<int32_t> begins = {0, 37, 37, 165, 200};  // four sequences, the second empty
  const int64_t tokens = begins.back(), longest = 128;
  const int64_t sequences = static_cast<int64_t>(begins.size()) - 1;

  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(tokens * width), k(q.size()), v(q.size());
  for (auto* x : {&q, &k, &v}) {
    for (float& value : *x) value = normal(engine);
  }
  std::vector<float> out(q.size()), alone(q.size());

  const auto packed = [&](const std::vector<float>& x) {
    return fa::View(x.data(), fa::float32, {tokens, heads, head_dim});
  };
  const fa::View cu_seqlens(begins.data(), fa::int32, {sequences + 1});
  fa::Options options{.causal = true};
  options.cu_seqlens_q = cu_seqlens;
  options.cu_seqlens_k = cu_seqlens;
  options.max_seqlen_q = options.max_seqlen_k = longest;
  fa::forward(packed(q), packed(k), packed(v), packed(out), {}, options);  // no LSE wanted

  double worst = 0;
  for (int64_t n = 0; n < sequences; ++n) {
    const int64_t begin = begins[n] * width, length = begins[n + 1] - begins[n];
    const auto part = [&](const std::vector<float>& x) {
      return fa::View(x.data() + begin, fa::float32, {1, length, heads, head_dim});
    };
    fa::forward(part(q), part(k), part(v), part(alone), {}, {.causal = true});
  }
  for (size_t i = 0; i < out.size(); ++i) {
    worst = std::fmax(worst, std::abs(double(out[i]) - alone[i]));
  }
  std::printf("%lld tokens in %lld sequences, largest difference %.1e\n", (long long)tokens,
              (long long)sequences, worst);
  return worst == 0 ? 0 : 1;
}
