// One model's attention: run, timed and compared with float64.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "demo/models.hpp"
#include "verify/verdict.hpp"

namespace fa::cli {

struct ModelResult {
  Model model{};
  int64_t seqlen = 0;
  double forward_seconds = 0;  ///< the shortest of some runs
  double backward_seconds = 0;
  std::vector<Verdict> verdicts;
  double peak = 0;  ///< the machine's operations per second in the arithmetic of the model's dtype

  double seconds(bool backward) const { return backward ? backward_seconds : forward_seconds; }
  double flops(bool backward) const;
  /// Within the bound of docs/numerics.md, both its parts.
  bool right() const;
};

ModelResult run_model(const Model& model, int64_t seqlen, int threads, uint64_t seed);

void print_speed(const std::vector<ModelResult>& results);
void print_errors(const std::vector<ModelResult>& results);
nlohmann::json to_json(const ModelResult& result);

}  // namespace fa::cli
