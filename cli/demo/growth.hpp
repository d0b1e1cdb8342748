// Time and memory of one pass as the sequence grows, ours and the plain quadratic way.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

namespace fa::cli {

/// The problem whose length grows: causal self-attention of one sequence, float32.
inline constexpr int64_t growth_heads = 4;
inline constexpr int64_t growth_head_dim = 64;

/// Bytes are those beyond inputs and outputs.
struct PassCost {
  std::optional<double> seconds;    ///< nothing: not run
  std::optional<int64_t> measured;  ///< growth of peak resident memory in a process of its own
  int64_t told = 0;                 ///< by the plan; for the plain way, counted: S and dS whole
};

struct GrowthRow {
  int64_t seqlen = 0;
  PassCost forward, backward;
  PassCost plain_forward, plain_backward;
};

/// The plain way runs as long as it takes at most a third of the memory that is free, and 1 GiB.
GrowthRow measure_growth(int64_t seqlen);

void print_growth(const std::vector<GrowthRow>& rows);
nlohmann::json to_json(const GrowthRow& row);

}  // namespace fa::cli
