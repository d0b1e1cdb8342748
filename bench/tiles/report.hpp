// The results of the tiles, for people and programs.
#pragma once

#include <string>
#include <vector>

#include "cuda/runtime/cubin.hpp"
#include "plan/cuda/forward.hpp"
#include "tiles/work.hpp"
#include "timing/contest.hpp"

namespace fa::bench {

/// A tile and its kernel; what was measured of it where there is a device.
struct Row {
  FamilyTile tile;
  CudaForwardPlan plan;
  cuda::CubinUse use;
  bool planned = false;
  const Measured* measured = nullptr;
  /// The planned tile's time over this one's, the median of all rounds: above 1 is faster.
  double ratio = 0;

  int blocks_per_sm() const;
};

/// A line for each, the fastest first; then those that are wrong.
void print_rows(std::vector<Row> rows, const Work& work);
std::string json_text(const std::string& device, const std::vector<Row>& rows, const Work& work);

}  // namespace fa::bench
