// ablation: what the sm80 kernels' ways give them, measured by leaving one out at a time.
// docs/kernels/learned.md has the tables, and the paper's three ideas too.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "ablation/backward.hpp"
#include "ablation/cell.hpp"
#include "check/cuda_accelerator.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "support/commit.hpp"
#include "support/io/text_output.hpp"

namespace fa::bench {
namespace {

constexpr int device = 0;

std::vector<Cell> make_cells(const Tensors& tensors) {
  std::vector<Cell> cells;
  for (const int64_t head_dim : {64, 128}) {
    for (const bool causal : {false, true}) {
      for (const int64_t seqlen : {512, 4096, 16384}) {
        cells.emplace_back(Shape{head_dim, seqlen, causal}, tensors);
      }
    }
  }
  return cells;
}

void compile_kernels(std::vector<Cell>& cells) {
  std::vector<KernelSpec> specs;
  for (Cell& cell : cells) {
    for (const KernelSpec& spec : cell.contest().kernels()) {
      if (std::ranges::find(specs, spec) == specs.end()) specs.push_back(spec);
    }
  }
  cuda::prepare(specs, device);
}

/// Prints what is wrong.
bool all_right(const std::vector<Cell>& cells) {
  bool right = true;
  for (const Cell& cell : cells) {
    const Shape& s = cell.shape();
    for (size_t n = 0; n < cell.variants().size(); ++n) {
      const Measured& measured = cell.measured(n);
      if (measured.right()) continue;
      right = false;
      fmt::print("WRONG: {}, head_dim {}, seqlen {}{}: out differs by {:.2e}, lse by {:.2e}\n",
                 cell.variants()[n].name, s.head_dim, s.seqlen, s.causal ? ", causal" : "",
                 measured.out_difference, measured.lse_difference);
    }
  }
  return right;
}

/// The fastest variant of each name, in the order of the variants.
std::vector<size_t> fastest(const Cell& cell) {
  std::vector<size_t> best;
  for (size_t n = 0; n < cell.variants().size(); ++n) {
    const auto same = std::ranges::find_if(
        best, [&](size_t other) { return cell.variants()[other].name == cell.variants()[n].name; });
    if (same == best.end()) {
      best.push_back(n);
    } else if (cell.measured(n).median() < cell.measured(*same).median()) {
      *same = n;
    }
  }
  return best;
}

/// Milliseconds, TFLOP/s, and the time that the normal way takes as a part of it.
void print_table(const std::vector<Cell>& cells) {
  const Cell& first = cells.front();
  fmt::print("{:>3} {:>6} {:>6}", "d", "mask", "seqlen");
  for (const size_t n : fastest(first)) fmt::print("  {:>20}", first.variants()[n].name);
  fmt::print("\n{:18}", "");
  for (size_t n = 0; n < fastest(first).size(); ++n) {
    fmt::print("  {:>8} {:>5} {:>5}", "ms", "TF/s", "x");
  }
  fmt::print("\n");
  for (const Cell& cell : cells) {
    const Shape& s = cell.shape();
    fmt::print("{:>3} {:>6} {:>6}", s.head_dim, s.causal ? "causal" : "full", s.seqlen);
    const double normal = cell.measured(0).median();
    for (const size_t n : fastest(cell)) {
      const double milliseconds = cell.measured(n).median();
      fmt::print("  {:>8.3f} {:>5.0f} {:>5.2f}", milliseconds, cell.tflops(n),
                 normal / milliseconds);
    }
    fmt::print("\n");
  }
  for (const size_t n : fastest(first)) {
    fmt::print("{}: {}\n", first.variants()[n].name, first.variants()[n].meaning);
  }
}

nlohmann::json to_json(const Cell& cell) {
  const Shape& s = cell.shape();
  nlohmann::json json{{"head_dim", s.head_dim},
                      {"seqlen", s.seqlen},
                      {"causal", s.causal},
                      {"batch", s.batch()},
                      {"heads", s.heads()}};
  for (size_t n = 0; n < cell.variants().size(); ++n) {
    const Variant& variant = cell.variants()[n];
    const auto& tile = std::get<ForwardTile>(*variant.tuning.tile);
    const Measured& measured = cell.measured(n);
    json["variants"].push_back({{"name", variant.name},
                                {"warps", tile.warps},
                                {"warp_rows", tile.warp_rows},
                                {"keys", tile.keys},
                                {"min_blocks", tile.min_blocks},
                                {"out_difference", measured.out_difference},
                                {"lse_difference", measured.lse_difference},
                                {"milliseconds", measured.milliseconds},
                                {"tflops", cell.tflops(n)}});
  }
  return json;
}

/// Prints the table; whether all is right.
bool print_backward(const std::vector<BackwardCell>& cells) {
  bool right = true;
  for (const BackwardCell& cell : cells) {
    const BackwardShape& s = cell.shape;
    fmt::print("backward, d {:>3}, {:>6}, {:>5}, heads {}/{}:", s.head_dim,
               s.causal ? "causal" : "full", s.seqlen, s.heads_q, s.heads_k);
    for (size_t n = 0; n < cell.variants.size(); ++n) {
      right = right && cell.right(n);
      fmt::print("  {} {:.0f} TF/s {:.2f}{}", cell.variants[n].name, cell.tflops(n),
                 cell.median(0) / cell.median(n), cell.right(n) ? "" : " WRONG");
    }
    fmt::print("\n");
  }
  return right;
}

nlohmann::json to_json(const BackwardCell& cell) {
  const BackwardShape& s = cell.shape;
  nlohmann::json json{{"head_dim", s.head_dim}, {"seqlen", s.seqlen}, {"causal", s.causal},
                      {"batch", s.batch},       {"heads", s.heads_q}, {"heads_k", s.heads_k}};
  for (size_t n = 0; n < cell.variants.size(); ++n) {
    json["variants"].push_back({{"name", cell.variants[n].name},
                                {"meaning", cell.variants[n].meaning},
                                {"difference", cell.differences[n]},
                                {"milliseconds", cell.milliseconds[n]},
                                {"tflops", cell.tflops(n)}});
  }
  return json;
}

template <typename Cells>
nlohmann::json to_json(const Cells& cells) {
  nlohmann::json all;
  for (const auto& cell : cells) all.push_back(to_json(cell));
  return all;
}

/// Null where a result is wrong.
nlohmann::json run_forward(const Tensors& tensors, int rounds, std::mt19937_64& random) {
  std::vector<Cell> cells = make_cells(tensors);
  compile_kernels(cells);
  for (Cell& cell : cells) cell.contest().check();
  if (!all_right(cells)) return nullptr;
  for (Cell& cell : cells) cell.contest().time(rounds, random);
  print_table(cells);
  return to_json(cells);
}
nlohmann::json run_backward_pass(Tensors& tensors, int rounds, std::mt19937_64& random) {
  const std::vector<BackwardCell> cells = run_backward(tensors, rounds, random);
  return print_backward(cells) ? to_json(cells) : nullptr;
}

int run(bool backward, int rounds, const std::string& path) {
  io::TextOutput json(path);
  fmt::print("{}, commit {}: bfloat16, {} tokens, hidden {}, median of {} rounds\n",
             check::cuda_text(device), support::commit, tokens, hidden, rounds);
  constexpr int64_t numbers = tokens * hidden;
  Tensors tensors(device, bfloat16,
                  {numbers, numbers, numbers, numbers, numbers / 64});  // LSE of narrow heads
  std::mt19937_64 random(1);
  const nlohmann::json cells =
      backward ? run_backward_pass(tensors, rounds, random) : run_forward(tensors, rounds, random);
  if (cells.is_null()) return 1;
  if (json.wanted()) {
    const nlohmann::json found{
        {"device", check::cuda_text(device)}, {"commit", support::commit}, {"cells", cells}};
    json.write(found.dump(1) + "\n");
  }
  return 0;
}

}  // namespace
}  // namespace fa::bench

int main(int argc, char** argv) {
  CLI::App app("The sm80 kernels without one of their ways at a time");
  int rounds = 7;
  bool backward = false;
  std::string json;
  app.add_option("--rounds", rounds, "how often each is timed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag("--backward", backward, "the backward kernel's, not the forward kernel's");
  app.add_option("--json", json, "write every round to FILE")->type_name("FILE");
  CLI11_PARSE(app, argc, argv);
  try {
    return fa::bench::run(backward, rounds, json);
  } catch (const std::exception& error) {
    fmt::print(stderr, "ablation: {}\n", error.what());
    return 2;
  }
}
