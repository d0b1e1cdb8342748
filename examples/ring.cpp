// Ring attention: the keys come in blocks, as from other machines; each block gives a partial
// attention, and merge joins it to what there is. One plan serves all blocks.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fa/attention.hpp>
#include <memory>
#include <random>
#include <vector>

constexpr int64_t B = 2, S = 256, H = 2, D = 64, blocks = 4, block = S / blocks;

int main() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(B * S * H * D), k(q.size()), v(q.size());
  for (auto* x : {&q, &k, &v}) {
    for (float& value : *x) value = normal(engine);
  }
  std::vector<float> whole(q.size()), whole_lse(B * H * S);
  std::vector<float> out(q.size(), 0), lse(B * H * S, -INFINITY);  // attention over no key yet
  std::vector<float> part(q.size()), part_lse(B * H * S);

  const auto rows = [](const std::vector<float>& x) {
    return fa::View(x.data(), fa::float32, {B, S, H, D});
  };
  const auto row_numbers = [](const std::vector<float>& x) {
    return fa::View(x.data(), fa::float32, {B, H, S});
  };
  const auto keys = [](const std::vector<float>& x, int64_t n) {  // block n, in place
    return fa::View(x.data() + n * block * H * D, fa::float32, {B, block, H, D},
                    {S * H * D, H * D, D, 1});
  };

  const fa::View q_view = rows(q), part_view = rows(part), part_lse_view = row_numbers(part_lse);
  const fa::View first_k = keys(k, 0), first_v = keys(v, 0);
  const fa::Plan plan = fa::plan_forward({q_view, first_k, first_v, part_view, part_lse_view});
  const size_t bytes = (plan.workspace_bytes() + 63) / 64 * 64;
  const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(64, bytes),
                                                              std::free);
  for (int64_t n = 0; n < blocks; ++n) {
    const fa::View k_view = keys(k, n), v_view = keys(v, n);
    plan.run(fa::ForwardArgs{q_view, k_view, v_view, part_view, part_lse_view}, {}, workspace.get(),
             bytes);
    fa::merge(rows(out), row_numbers(lse), part_view, part_lse_view, rows(out), row_numbers(lse));
  }

  fa::forward(q_view, rows(k), rows(v), rows(whole), row_numbers(whole_lse));
  double worst = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    worst = std::fmax(worst, std::abs(double(out[i]) - whole[i]));
  }
  std::printf("%lld blocks of %lld keys, largest difference %.1e\n", (long long)blocks,
              (long long)block, worst);
  return worst < 1e-5 ? 0 : 1;
}
