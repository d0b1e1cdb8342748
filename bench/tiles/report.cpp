#include "tiles/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/commit.hpp"
#include "tiles/candidates.hpp"

namespace fa::bench {

namespace {

bool timed(const Row& row) { return row.measured != nullptr && row.measured->right(); }

double tflops(const Row& row, const Work& work) {
  return work.flops() / row.measured->median() * 1e-9;
}

nlohmann::json to_json(const Work& w) {
  return {{"dtype", w.dtype == bfloat16 ? "bfloat16" : "float16"},
          {"head_dim", w.head_dim},
          {"head_dim_v", w.head_dim_v},
          {"heads_q", w.heads_q},
          {"heads_k", w.heads_k},
          {"batch", w.batch},
          {"seqlen_q", w.seqlen_q},
          {"seqlen_k", w.seqlen_k},
          {"lengths", w.lengths},
          {"causal", w.causal},
          {"window", w.window},
          {"softcap", w.softcap},
          {"dropout_p", w.dropout_p},
          {"alibi", w.alibi},
          {"bias", w.bias == Bias::none   ? "none"
                   : w.bias == Bias::keys ? "keys"
                                          : "rows"},
          {"flops", w.flops()}};
}

nlohmann::json to_json(const Row& row, const Work& work) {
  nlohmann::json json{{"planned", row.planned},
                      {"section", row.plan.section},
                      {"splits", row.plan.splits},
                      {"registers", row.use.registers},
                      {"spill_bytes", row.use.local_bytes},
                      {"shared_bytes", row.plan.main().shared_bytes},
                      {"blocks_per_sm", row.blocks_per_sm()}};
  for (const auto& [name, number] : tile_numbers(row.tile)) json["tile"][name] = number;
  if (row.measured != nullptr) {
    json["out_difference"] = row.measured->out_difference;
    json["lse_difference"] = row.measured->lse_difference;
  }
  if (timed(row)) {
    json["milliseconds"] = row.measured->milliseconds;
    json["ratio"] = row.ratio;
    json["tflops"] = tflops(row, work);
  }
  return json;
}

}  // namespace

int Row::blocks_per_sm() const {
  return resident_blocks(plan.gpu, plan.main().threads, use.registers, plan.main().shared_bytes);
}

void print_rows(std::vector<Row> rows, const Work& work) {
  std::ranges::stable_sort(rows, [](const Row& a, const Row& b) {
    return timed(a) && (!timed(b) || a.ratio > b.ratio);
  });
  fmt::print("{:>6} {:>9} {:>6} {:>9} {:>7} {:>7} {:>6} {:>7} {:>6}  {}\n", "ratio", "ms", "TF/s",
             "registers", "spilled", "shared", "blocks", "section", "splits", "tile");
  for (const Row& row : rows) {
    if (timed(row)) {
      fmt::print("{:>6.3f} {:>9.4f} {:>6.0f}", row.ratio, row.measured->median(),
                 tflops(row, work));
    } else {
      fmt::print("{:>6} {:>9} {:>6}", row.measured != nullptr ? "WRONG" : "-", "-", "-");
    }
    fmt::print(" {:>9} {:>7} {:>7} {:>6} {:>7} {:>6}  {}{}\n", row.use.registers,
               row.use.local_bytes, row.plan.main().shared_bytes, row.blocks_per_sm(),
               row.plan.section, row.plan.splits, tile_text(row.tile),
               row.planned ? " (planned)" : "");
    if (row.measured != nullptr && !timed(row)) {
      fmt::print("       out differs by {:.2e}, lse by {:.2e}\n", row.measured->out_difference,
                 row.measured->lse_difference);
    }
  }
}

std::string json_text(const std::string& device, const std::vector<Row>& rows, const Work& work) {
  nlohmann::json found{{"device", device}, {"commit", support::commit}, {"problem", to_json(work)}};
  for (const Row& row : rows) found["tiles"].push_back(to_json(row, work));
  return found.dump(1) + "\n";
}

}  // namespace fa::bench
