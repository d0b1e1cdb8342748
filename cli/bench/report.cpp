#include "bench/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fa/attention.hpp"
#include "hwy/highway.h"
#include "support/commit.hpp"
#include "support/measure/machine.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

bool right(const CellResult& cell) { return std::ranges::all_of(cell.verdicts, &Verdict::right); }

std::string heads_text(const Cell& c) {
  return c.heads_q == c.heads_k ? fmt::format("{}", c.heads_q)
                                : fmt::format("{}/{}", c.heads_q, c.heads_k);
}

void print_cell(const BenchResult& result, const CellResult& r) {
  const Cell& c = r.cell;
  const double seconds = median(r.seconds);
  const bool decode = c.work == Work::decode;
  const std::string length =
      c.seqlen_q == c.seqlen_k ? support::length_text(c.seqlen_k)
                               : fmt::format("{}/{}", c.seqlen_q, support::length_text(c.seqlen_k));
  fmt::print("{:<9} {:<9} {:>5} {:>7} {:>4} {:>6} {:<6} {:>9} {:>8.1f} {:<7} {:>4.0f}%  {}{}\n",
             to_text(c.work), support::dtype_text(c.dtype), c.batch, heads_text(c), c.head_dim,
             length, c.causal ? "causal" : "", support::seconds_text(seconds),
             c.amount() / seconds / 1e9, decode ? "GB/s" : "GFLOP/s", 100 * result.share(r), c.name,
             right(r) ? "" : "  WRONG");
}

nlohmann::json versions() {
  return {{"fa", version()},
          {"commit", support::commit},
          {"highway", fmt::format("{}.{}.{}", HWY_MAJOR, HWY_MINOR, HWY_PATCH)},
          {"compiler", __VERSION__}};
}

nlohmann::json to_json(const BenchResult& result, const CellResult& r) {
  nlohmann::json json = to_json(r.cell);
  json["seconds"] = r.seconds;
  json["median_seconds"] = median(r.seconds);
  json["share_of_machine"] = result.share(r);
  json["right"] = right(r);
  for (const Verdict& v : r.verdicts) {
    json["errors"][v.tensor()] = {
        {"ours", v.error()}, {"plain", v.plain_error()}, {"error_over_bound", v.ratio()}};
  }
  return json;
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double BenchResult::share(const CellResult& r) const {
  std::vector<double> shares;
  shares.reserve(r.seconds.size());
  const bool own_peak = r.cell.dtype == bfloat16 && !bfloat16_peaks.empty();
  for (size_t round = 0; round < r.seconds.size(); ++round) {
    constexpr double attainable = 0.8;  // of the peak: what long forward passes reach
    const double peak = (own_peak ? bfloat16_peaks : peaks)[round];
    double limit = peak;
    if (r.cell.work == Work::decode) {
      const double flops_of_byte = r.cell.flops() / static_cast<double>(r.cell.key_bytes());
      limit = std::min(bandwidths[round], attainable * peak / flops_of_byte);
    }
    shares.push_back(r.cell.amount() / r.seconds[round] / limit);
  }
  return median(shares);
}

bool BenchResult::right() const {
  return std::ranges::all_of(cells, [](const CellResult& r) { return cli::right(r); });
}

void print_result(const BenchResult& result) {
  fmt::print("FlashAttention.cpp {} ({}) on {}, {}, {}\n", version(), support::commit,
             support::cpu_model(), support::count_text(result.machine.threads, "thread"),
             cpu_target());
  fmt::print(
      "peak       {:.1f} GFLOP/s of float32 multiply-adds, median of {} ({}: {:.2f} "
      "GHz implied by {} of {} floats a cycle)\n",
      median(result.peaks) / 1e9,
      support::count_text(static_cast<int64_t>(result.peaks.size()), "round"),
      result.machine.target, result.machine.implied_ghz(), result.machine.per_cycle,
      result.machine.lanes);
  if (!result.bfloat16_peaks.empty()) {
    fmt::print("           {:.1f} GFLOP/s of {}\n", median(result.bfloat16_peaks) / 1e9,
               to_text(result.arithmetic));
  }
  if (!result.bandwidths.empty()) {
    fmt::print("bandwidth  {:.1f} GB/s read, rotating over {} (last cache: {})\n",
               median(result.bandwidths) / 1e9,
               support::bytes_text(static_cast<double>(result.rotation_bytes)),
               support::bytes_text(static_cast<double>(support::last_level_cache())));
  }
  fmt::print("\n{:<9} {:<9} {:>5} {:>7} {:>4} {:>6} {:<6} {:>9} {:>16} {:>5}\n", "work", "dtype",
             "batch", "heads", "d", "length", "", "time", "rate", "share");
  for (const CellResult& cell : result.cells) print_cell(result, cell);
  fmt::print(
      "time: median; share: median over the rounds of the rate by the dtype's peak in that round "
      "(decode: by the bandwidth, or by what 0.8 of the peak takes in if that is less)\n");
}

std::string json_text(const BenchResult& result) {
  nlohmann::json json{{"device", support::cpu_model()},
                      {"threads", result.machine.threads},
                      {"target", cpu_target()},
                      {"versions", versions()},
                      {"peak_flops_per_second", result.peaks},
                      {"bfloat16_peak_flops_per_second", result.bfloat16_peaks},
                      {"bfloat16_arithmetic", to_text(result.arithmetic)},
                      {"read_bytes_per_second", result.bandwidths},
                      {"implied_ghz", result.machine.implied_ghz()},
                      {"vector_floats", result.machine.lanes},
                      {"last_level_cache_bytes", support::last_level_cache()},
                      {"rotation_bytes", result.rotation_bytes}};
  for (const CellResult& cell : result.cells) json["cells"].push_back(to_json(result, cell));
  return json.dump(2) + "\n";
}

}  // namespace fa::cli
