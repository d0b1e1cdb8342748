#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>

#include "bench/contender.hpp"
#include "bench/host_time.hpp"
#include "bench/report.hpp"
#include "commands.hpp"
#include "common/device_flag.hpp"
#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "support/io/text_output.hpp"
#include "support/measure/machine.hpp"
#include "support/progress.hpp"

namespace fa::cli {
namespace {

constexpr const char* bench_examples =
    R"(Each round runs every cell once, in shuffled order, and the machine's own peaks beside them. Results
are compared with float64 on random rows first. FLOPs as the paper counts: 4 Sq Sk D H B, half of it
when causal, backward 2.5 times that; decoding is measured by the bytes of K and V that it reads.

Examples:
  fa bench
  fa bench --work forward --head-dim 128 --dtype bfloat16 --rounds 31 --json forward.json
  fa bench --models --seconds 600
  fa bench --host-time --device cuda)";

struct BenchFlags {
  Grid grid;
  int rounds = 15;
  double seconds = 0;
  int threads = 0;
  int64_t rotation_mib = 0;
  uint64_t seed = 1;
  bool host_time = false;
  std::string device = "cpu";
  std::string json;
};

class Bench {
 public:
  explicit Bench(const BenchFlags& flags)
      : flags_(flags),
        threads_(flags.threads > 0 ? flags.threads : support::default_threads()),
        cells_(cells_of(flags.grid)),
        random_(flags.seed) {
    if (cells_.empty()) throw UsageError("no cells: --work, --dtype and the grid leave nothing");
    buffers_.emplace(cells_, flags.rotation_mib << 20);
    for (const Cell& cell : cells_) contenders_.emplace_back(cell, *buffers_, threads_);
  }

  BenchResult run() {
    result_.machine = support::measure_fma_peak(threads_, 0.5);
    if (std::ranges::any_of(cells_, [](const Cell& c) { return c.dtype == bfloat16; })) {
      result_.arithmetic = support::arithmetic_of(bfloat16);
    }
    result_.rotation_bytes = buffers_->rotation().bytes();
    verify();
    if (result_.right()) run_rounds();
    return result_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void verify() {
    support::Progress progress(static_cast<int64_t>(cells_.size()));
    for (Contender& contender : contenders_) {
      progress.show(static_cast<int64_t>(result_.cells.size()), "comparing with float64");
      result_.cells.push_back({contender.cell(), contender.verify(), {}});
    }
  }

  void run_rounds() {
    support::Progress progress(flags_.rounds);
    const auto start = Clock::now();
    for (int round = 0; round < flags_.rounds; ++round) {
      progress.show(round, fmt::format("round {} of {}", round + 1, flags_.rounds));
      run_round();
      const std::chrono::duration<double> taken = Clock::now() - start;
      if (flags_.seconds > 0 && taken.count() > flags_.seconds) break;
    }
  }

  void run_round() {
    const bool decodes = buffers_->rotation().given();
    std::vector<size_t> order(contenders_.size() + (decodes ? 2 : 1));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::shuffle(order, random_);
    for (const size_t turn : order) {
      if (turn < contenders_.size()) {
        result_.cells[turn].seconds.push_back(contenders_[turn].time());
      } else if (turn == contenders_.size()) {
        result_.peaks.push_back(support::measure_fma_peak(threads_, 0.1).flops);
        if (result_.arithmetic != support::Arithmetic::widened) {
          result_.bfloat16_peaks.push_back(
              support::measure_peak(result_.arithmetic, threads_, 0.1));
        }
      } else {
        const io::Array& pages = buffers_->rotation();
        result_.bandwidths.push_back(support::measure_read_bandwidth(
            {pages.data(), static_cast<size_t>(pages.bytes())}, threads_));
      }
    }
  }

  const BenchFlags& flags_;
  const int threads_;
  const std::vector<Cell> cells_;
  std::mt19937_64 random_;
  std::optional<Buffers> buffers_;
  std::vector<Contender> contenders_;
  BenchResult result_;
};

int run(const BenchFlags& flags) {
  io::TextOutput json(flags.json);
  if (flags.host_time) return bench_host_time(flags.device, json);
  const BenchResult result = Bench(flags).run();
  if (!result.right()) {
    for (const CellResult& cell : result.cells) {
      fmt::print("{} {}\n{}", to_text(cell.cell.work), to_json(cell.cell).dump(),
                 to_text(cell.verdicts));
    }
    fmt::print("\nbench FAILED: a result is WRONG; nothing was timed\n");
    return exit_wrong_result;
  }
  print_result(result);
  if (json.wanted()) json.write(json_text(result));
  return exit_right;
}

}  // namespace

Command add_bench(const support::Flags& program) {
  auto flags = std::make_shared<BenchFlags>();
  const support::Flags app =
      program.command("bench", "Times this library beside the machine's peaks");
  Grid& grid = flags->grid;
  const auto numbers = [&](const char* flag, std::vector<int64_t>& value, const char* help) {
    app.value(flag, value, help).within(1, int64_t{1} << 20);
  };
  const auto number = [&](const char* flag, auto& value, const char* help) {
    app.value(flag, value, help).within(1, int64_t{1} << 24);
  };
  app.value("--work", grid.works, "forward, backward, decode");
  app.value("--dtype", grid.dtypes, "float32, float16, bfloat16");
  numbers("--head-dim", grid.head_dims, "head_dims of the grid");
  numbers("--seqlen", grid.seqlens, "lengths of the grid");
  number("--tokens", grid.tokens, "batch * length of the grid");
  number("--hidden", grid.hidden, "heads * head_dim of the grid");
  app.on("--models", grid.models, "famous models in place of the grid");
  number("--model-seqlen", grid.model_seqlen, "their length");
  number("--rounds", flags->rounds, "how often each cell is timed");
  app.value("--seconds", flags->seconds, "stop after the round in which this time is over")
      .not_negative();
  app.value("--threads", flags->threads, threads_help).within(0, 1024);
  app.value("--rotation", flags->rotation_mib,
            "MiB from which decoding takes ever new keys; 0: 8 times the last cache, at most "
            "4096 and half of the free memory")
      .within(0, int64_t{1} << 20);
  app.value("--seed", flags->seed, "seed of the order of the cells").unsigned_number();
  const support::Flag host_time =
      app.on("--host-time", flags->host_time,
             "instead of all this, how long a call keeps its thread where its work hardly counts");
  add_device_flag(app, flags->device, "cpu, or cuda[:N]: of --host-time").needs(host_time);
  app.value("--json", flags->json, "write every round to FILE").type_name("FILE");
  app.footer(bench_examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
