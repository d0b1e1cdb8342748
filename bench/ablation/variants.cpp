#include "ablation/variants.hpp"

namespace fa::bench {

std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu) {
  const ForwardTile best = forward_tile(problem, gpu);
  ForwardTile exact = best;
  exact.stale_maximum = false;
  return {{"normal", "as planned", {.tile = best, .splits = 1, .section = {}}},
          {"exact maximum",
           "O rescaled whenever the maximum grows, as in Algorithm 1",
           {.tile = exact, .splits = 1, .section = {}}}};
}

}  // namespace fa::bench
