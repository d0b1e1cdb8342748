#include "demo/growth.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "demo/self.hpp"
#include "support/measure/memory.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

PassCost measure(int64_t seqlen, bool plain, bool backward) {
  std::vector<std::string> arguments{"measure", "--seqlen", std::to_string(seqlen)};
  if (plain) arguments.emplace_back("--plain");
  if (backward) arguments.emplace_back("--backward");
  const auto result = nlohmann::json::parse(run_self(arguments));
  PassCost cost;
  cost.seconds = result.at("seconds").get<double>();
  if (!result.at("bytes").is_null()) cost.measured = result.at("bytes").get<int64_t>();
  if (result.contains("told")) cost.told = result.at("told").get<int64_t>();
  return cost;
}

PassCost measure_plain(int64_t seqlen, bool backward) {
  const int64_t bytes =
      (backward ? 2 : 1) * growth_heads * seqlen * seqlen * int64_t{sizeof(float)};
  const int64_t most = std::min(support::available_memory() / 3, int64_t{1} << 30);
  PassCost cost;
  if (bytes <= most) cost = measure(seqlen, true, backward);
  cost.told = bytes;
  return cost;
}

std::string time_of(const PassCost& cost) {
  return cost.seconds ? support::seconds_text(*cost.seconds) : "-";
}

/// Measured bytes; those that are only counted are marked.
std::string plain_bytes(const PassCost& cost) {
  if (cost.measured) return support::bytes_text(static_cast<double>(*cost.measured));
  return support::bytes_text(static_cast<double>(cost.told)) + "*";
}

std::string our_bytes(const PassCost& cost) {
  const std::string planned = support::bytes_text(static_cast<double>(cost.told));
  if (!cost.measured) return "? / " + planned;
  return support::bytes_text(static_cast<double>(*cost.measured)) + " / " + planned;
}

nlohmann::json to_json(const PassCost& cost) {
  nlohmann::json json{{"told_bytes", cost.told}};
  json["seconds"] = cost.seconds ? nlohmann::json(*cost.seconds) : nlohmann::json();
  json["measured_bytes"] = cost.measured ? nlohmann::json(*cost.measured) : nlohmann::json();
  return json;
}

}  // namespace

GrowthRow measure_growth(int64_t seqlen) {
  return {seqlen, measure(seqlen, false, false), measure(seqlen, false, true),
          measure_plain(seqlen, false), measure_plain(seqlen, true)};
}

void print_growth(const std::vector<GrowthRow>& rows) {
  fmt::print("\nTime and memory as the sequence grows: causal, {} heads of {}, float32\n\n",
             growth_heads, growth_head_dim);
  fmt::print("{:>6}  {:^53}  {:^43}\n", "", "this library", "plain formula, S = Q K^T stored");
  fmt::print("{:>6}  {:^26} {:^26}  {:^21} {:^21}\n", "", "forward", "backward", "forward",
             "backward");
  fmt::print("{:>6}  {:>8} {:>17} {:>8} {:>17}  {:>8} {:>12} {:>8} {:>12}\n", "length", "time",
             "memory / planned", "time", "memory / planned", "time", "memory", "time", "memory");
  for (const GrowthRow& row : rows) {
    fmt::print("{:>6}  {:>8} {:>17} {:>8} {:>17}  {:>8} {:>12} {:>8} {:>12}\n",
               support::length_text(row.seqlen), time_of(row.forward), our_bytes(row.forward),
               time_of(row.backward), our_bytes(row.backward), time_of(row.plain_forward),
               plain_bytes(row.plain_forward), time_of(row.plain_backward),
               plain_bytes(row.plain_backward));
  }
  fmt::print(
      "memory: growth of the process's peak beyond inputs and outputs, measured; "
      "* counted, not run\n");
}

nlohmann::json to_json(const GrowthRow& row) {
  return {{"seqlen", row.seqlen},
          {"forward", to_json(row.forward)},
          {"backward", to_json(row.backward)},
          {"plain_forward", to_json(row.plain_forward)},
          {"plain_backward", to_json(row.plain_backward)}};
}

}  // namespace fa::cli
