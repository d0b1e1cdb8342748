// Decodes from a cache in pages: each step appends one key and value to every sequence and attends
// to all so far, by one plan. At the end all steps must be one causal pass over the same tokens.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fa/attention.hpp>
#include <random>
#include <vector>

constexpr int64_t sequences = 2, steps = 100, heads_q = 8, heads_k = 2, head_dim = 64;
constexpr int64_t page_size = 16, pages_of_sequence = 8, pages = sequences * pages_of_sequence;
constexpr int64_t row = heads_k * head_dim, query_row = heads_q * head_dim;

int main() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(sequences * steps * query_row), k(sequences * steps * row), v(k.size());
  for (auto* x : {&q, &k, &v}) {
    for (float& value : *x) value = normal(engine);
  }

  // The cache, and which of its pages each sequence has: every second one here.
  std::vector<float> k_pages(pages * page_size * row), v_pages(k_pages.size());
  std::vector<int32_t> table(pages), lengths(sequences, 0);
  for (int64_t n = 0; n < pages; ++n)
    table[n] = n % pages_of_sequence * sequences + n / pages_of_sequence;

  std::vector<float> now(sequences * query_row), out(now.size()), decoded(q.size());
  const auto in_pages = [](const std::vector<float>& x) {
    return fa::View(x.data(), fa::float32, {pages, page_size, heads_k, head_dim});
  };
  const auto one_row = [](const std::vector<float>& x) {
    return fa::View(x.data(), fa::float32, {sequences, 1, heads_q, head_dim});
  };
  fa::Options options;
  options.page_table = fa::View(table.data(), fa::int32, {sequences, pages_of_sequence});
  options.seqused_k = fa::View(lengths.data(), fa::int32, {sequences});
  const fa::View query = one_row(now), keys = in_pages(k_pages), values = in_pages(v_pages),
                 result = one_row(out);
  const fa::ForwardArgs args{query, keys, values, result, {}};
  const fa::Plan plan = fa::plan_forward(args, options);  // it knows the capacity, not the lengths
  const size_t bytes = (plan.workspace_bytes() + 63) / 64 * 64;
  void* workspace = bytes > 0 ? std::aligned_alloc(64, bytes) : nullptr;

  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t b = 0; b < sequences; ++b) {
      const int64_t token = b * steps + step;
      const int64_t page = table[b * pages_of_sequence + step / page_size];
      const int64_t to = (page * page_size + step % page_size) * row;
      for (int64_t i = 0; i < row; ++i) {
        k_pages[to + i] = k[token * row + i];
        v_pages[to + i] = v[token * row + i];
      }
      for (int64_t i = 0; i < query_row; ++i) now[b * query_row + i] = q[token * query_row + i];
      ++lengths[b];
    }
    plan.run(args, options, workspace, bytes);
    for (int64_t b = 0; b < sequences; ++b) {
      const int64_t to = (b * steps + step) * query_row;
      for (int64_t i = 0; i < query_row; ++i) decoded[to + i] = out[b * query_row + i];
    }
  }
  std::free(workspace);

  std::vector<float> at_once(q.size());
  const auto all = [](const std::vector<float>& x, int64_t heads) {
    return fa::View(x.data(), fa::float32, {sequences, steps, heads, head_dim});
  };
  fa::forward(all(q, heads_q), all(k, heads_k), all(v, heads_k), all(at_once, heads_q), {},
              {.causal = true});
  double worst = 0;
  for (size_t i = 0; i < decoded.size(); ++i) {
    worst = std::fmax(worst, std::abs(double(decoded[i]) - at_once[i]));
  }
  std::printf("%lld steps of %lld sequences, largest difference from one pass %.1e\n",
              (long long)steps, (long long)sequences, worst);
  return worst < 1e-5 ? 0 : 1;
}
