// ablation: what each of the FlashAttention-2 paper's three ideas gives the sm80 forward kernel,
// measured by leaving it out. docs/kernels.md has the table and what it means.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "ablation/cell.hpp"
#include "check/cuda_accelerator.hpp"
#include "cuda/kernel_store.hpp"
#include "io/file.hpp"

namespace fa::bench {
namespace {

constexpr int device = 0;

std::vector<Cell> make_cells(const Tensors& tensors) {
  std::vector<Cell> cells;
  for (const int64_t head_dim : {64, 128}) {
    for (const bool causal : {false, true}) {
      for (const int64_t seqlen : {512, 4096, 16384}) {
        cells.emplace_back(Shape{head_dim, seqlen, causal}, tensors, device);
      }
    }
  }
  return cells;
}

void compile_kernels(const std::vector<Cell>& cells) {
  std::vector<KernelSpec> specs;
  for (const Cell& cell : cells) {
    for (const KernelSpec& spec : cell.kernels()) {
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
    for (const Found& found : cell.found()) {
      if (found.right()) continue;
      right = false;
      fmt::print("WRONG: {}, head_dim {}, seqlen {}{}: out differs by {:.2e}, lse by {:.2e}\n",
                 found.variant.name, s.head_dim, s.seqlen, s.causal ? ", causal" : "",
                 found.out_difference, found.lse_difference);
    }
  }
  return right;
}

/// Of each name its fastest tile, in the order of the variants.
std::vector<const Found*> fastest(const Cell& cell) {
  std::vector<const Found*> best;
  for (const Found& found : cell.found()) {
    const auto same = std::ranges::find_if(
        best, [&](const Found* other) { return other->variant.name == found.variant.name; });
    if (same == best.end()) {
      best.push_back(&found);
    } else if (found.median() < (*same)->median()) {
      *same = &found;
    }
  }
  return best;
}

double tflops(const Shape& shape, const Found& found) {
  return shape.flops() / found.median() * 1e-9;
}

/// Milliseconds, TFLOP/s, and the time that the normal way takes as a part of it.
void print_table(const std::vector<Cell>& cells) {
  fmt::print("{:>3} {:>6} {:>6}", "d", "mask", "seqlen");
  for (const Found* found : fastest(cells.front())) fmt::print("  {:>20}", found->variant.name);
  fmt::print("\n{:18}", "");
  for (size_t n = 0; n < fastest(cells.front()).size(); ++n) {
    fmt::print("  {:>8} {:>5} {:>5}", "ms", "TF/s", "x");
  }
  fmt::print("\n");
  for (const Cell& cell : cells) {
    const Shape& s = cell.shape();
    const std::vector<const Found*> best = fastest(cell);
    fmt::print("{:>3} {:>6} {:>6}", s.head_dim, s.causal ? "causal" : "full", s.seqlen);
    for (const Found* found : best) {
      fmt::print("  {:>8.3f} {:>5.0f} {:>5.2f}", found->median(), tflops(s, *found),
                 best.front()->median() / found->median());
    }
    fmt::print("\n");
  }
  for (const Found* found : fastest(cells.front())) {
    fmt::print("{}: {}\n", found->variant.name, found->variant.meaning);
  }
}

nlohmann::json to_json(const Cell& cell) {
  const Shape& s = cell.shape();
  nlohmann::json json{{"head_dim", s.head_dim},
                      {"seqlen", s.seqlen},
                      {"causal", s.causal},
                      {"batch", s.batch()},
                      {"heads", s.heads()}};
  for (const Found& found : cell.found()) {
    const ForwardTile& tile = *found.variant.tuning.tile;
    json["variants"].push_back({{"name", found.variant.name},
                                {"warps", tile.warps},
                                {"warp_rows", tile.warp_rows},
                                {"keys", tile.keys},
                                {"min_blocks", tile.min_blocks},
                                {"out_difference", found.out_difference},
                                {"lse_difference", found.lse_difference},
                                {"milliseconds", found.milliseconds},
                                {"tflops", tflops(s, found)}});
  }
  return json;
}

int run(int rounds, const std::string& json) {
  if (!json.empty()) io::try_writing(json);
  const auto accelerator = check::cuda_accelerator(device);
  fmt::print("{}, commit {}: bfloat16, {} tokens, hidden {}, median of {} rounds\n",
             check::cuda_text(device), FA_COMMIT, tokens, hidden, rounds);
  const Tensors tensors(*accelerator);
  std::vector<Cell> cells = make_cells(tensors);
  compile_kernels(cells);
  for (Cell& cell : cells) cell.check();
  if (!all_right(cells)) return 1;
  std::mt19937_64 random(1);
  for (Cell& cell : cells) cell.time(rounds, random);
  print_table(cells);
  if (!json.empty()) {
    nlohmann::json found{{"device", check::cuda_text(device)}, {"commit", FA_COMMIT}};
    for (const Cell& cell : cells) found["cells"].push_back(to_json(cell));
    io::OutputFile file(json);
    file.write(found.dump(1) + "\n");
    file.commit();
  }
  return 0;
}

}  // namespace
}  // namespace fa::bench

int main(int argc, char** argv) {
  CLI::App app("The sm80 forward kernel without one of the paper's three ideas at a time");
  int rounds = 7;
  std::string json;
  app.add_option("--rounds", rounds, "how often each is timed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--json", json, "write every round to FILE")->type_name("FILE");
  CLI11_PARSE(app, argc, argv);
  try {
    return fa::bench::run(rounds, json);
  } catch (const std::exception& error) {
    fmt::print(stderr, "ablation: {}\n", error.what());
    return 2;
  }
}
