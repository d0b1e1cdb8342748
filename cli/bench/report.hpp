// The results of a benchmark.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/cell.hpp"
#include "support/measure/peak.hpp"
#include "verify/verdict.hpp"

namespace fa::cli {

struct CellResult {
  Cell cell;
  std::vector<Verdict> verdicts;
  std::vector<double> seconds;  ///< of every round
};

struct BenchResult {
  support::FmaPeak machine;   ///< of a longer run before the rounds
  std::vector<double> peaks;  ///< operations per second, of every round
  support::Arithmetic arithmetic = support::Arithmetic::widened;  ///< bfloat16's, where it is timed
  std::vector<double> bfloat16_peaks;  ///< of that, unless it is float32's
  std::vector<double> bandwidths;      ///< bytes per second, of every round
  int64_t rotation_bytes = 0;
  std::vector<CellResult> cells;

  /// The median over the rounds of a cell's rate by the machine's in the same round.
  double share(const CellResult& cell) const;
  bool right() const;
};

double median(std::vector<double> values);

void print_result(const BenchResult& result);
std::string json_text(const BenchResult& result);

}  // namespace fa::cli
