// tiles: times tiles of the forward kernel beside the one that the plan takes. What
// src/plan/cuda/{sm80,sm90}/forward_tiles.cpp have was found in this way; so can be the tiles of
// another GPU.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "check/cuda_accelerator.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda/runtime/parallel.hpp"
#include "problem/argument.hpp"
#include "support/commit.hpp"
#include "support/io/text_output.hpp"
#include "tiles/candidates.hpp"
#include "tiles/report.hpp"
#include "tiles/work.hpp"
#include "timing/contest.hpp"

namespace fa::bench {
namespace {

constexpr Device device{cuda_device, 0};
constexpr int64_t hidden = 2048;  // heads * head_dim, unless --heads is given

constexpr const char* footer =
    "For example:\n"
    "  tiles --head-dim 128 --seqlen 4096 --causal --search --json tiles.json\n"
    "  tiles --head-dim 128 --packed lognormal:64:1 --family sm80 --tile "
    "warps=8,keys=64,groups=2,stages=3\n"
    "  tiles --head-dim 64 --seqlen 512 --search --arch sm_90a    # no device: what kernels take";

struct Flags {
  Work work;
  std::string dtype = "bf16";
  int64_t tokens = 16384;
  std::string packed;
  std::vector<std::string> tiles;
  bool search = false;
  int section = 0;
  int rounds = 9;
  std::string json;
  std::string arch;
  bool list = false;
};

/// Fills in what is not given from the rest.
Work work_of(const Flags& flags) {
  Work w = flags.work;
  w.dtype = flags.dtype == "bf16" ? bfloat16 : float16;
  if (w.head_dim_v == 0) w.head_dim_v = w.head_dim;
  if (w.heads_q == 0) w.heads_q = std::max<int64_t>(hidden / w.head_dim, 1);
  if (w.heads_k == 0) w.heads_k = w.heads_q;
  if (w.heads_q % w.heads_k != 0) {
    fail(Status::invalid_argument, "--heads-k", "is {}; allowed are divisors of --heads, {}",
         w.heads_k, w.heads_q);
  }
  if (!flags.packed.empty()) {
    w.lengths = parse_lengths(flags.packed);
    w.batch = static_cast<int64_t>(w.lengths.size());
    w.seqlen_q = w.seqlen_k = std::ranges::max(w.lengths);
    return w;
  }
  if (w.seqlen_q == 0) {
    fail(Status::invalid_argument, "--seqlen", "is not given; nor is --packed");
  }
  if (w.seqlen_k == 0) w.seqlen_k = w.seqlen_q;
  if (w.batch == 0) w.batch = std::max<int64_t>(flags.tokens / w.seqlen_q, 1);
  return w;
}

/// The planned tile first.
std::vector<ForwardTuning> candidates(const Flags& flags, const Problem& problem,
                                      const GpuLimits& gpu) {
  const FamilyTile planned = planned_tile(problem, gpu);
  const int planned_section = plan_cuda_forward(problem, gpu).section;
  const std::optional<int> section =
      flags.section > 0 ? std::optional(flags.section) : std::nullopt;
  std::vector<FamilyTile> tiles;
  const auto add = [&](const FamilyTile& tile) {
    const bool same = tile == planned && section.value_or(planned_section) == planned_section;
    if (!same && std::ranges::find(tiles, tile) == tiles.end()) tiles.push_back(tile);
  };
  if (section) add(planned);
  for (const std::string& text : flags.tiles) add(parse_tile(text, problem, gpu));
  if (flags.search) std::ranges::for_each(search_tiles(problem, gpu), add);
  std::vector<ForwardTuning> all{{.tile = planned, .splits = {}, .section = {}}};
  for (const FamilyTile& tile : tiles) {
    all.push_back({.tile = tile, .splits = {}, .section = section});
  }
  return all;
}

/// Those that the compiler takes. It refuses a tile of sm90 whose products ptxas would serialize
/// for want of registers, which no count of them foretells.
std::vector<ForwardTuning> that_compile(const std::vector<ForwardTuning>& ways,
                                        const Problem& problem, const GpuLimits& gpu) {
  std::vector<char> serialized(ways.size());
  cuda::parallel_for(static_cast<int64_t>(ways.size()), 0, [&](int64_t n) {
    try {
      cuda::kernel_store().cubin(plan_cuda_forward(problem, gpu, ways[n]).main(), gpu.arch);
    } catch (const Error& error) {
      serialized[n] =
          n > 0 && std::string_view(error.what()).find("serialized") != std::string_view::npos;
      if (serialized[n] == 0) throw;
    }
  });
  std::vector<ForwardTuning> taken;
  for (size_t n = 0; n < ways.size(); ++n) {
    if (serialized[n] == 0) {
      taken.push_back(ways[n]);
    } else {
      fmt::print("left out, its products would be serialized: {}\n", tile_text(*ways[n].tile));
    }
  }
  return taken;
}

/// The median ratio of the rounds in which both ran.
double ratio(const Measured& planned, const Measured& other) {
  std::vector<double> ratios;
  for (size_t n = 0; n < other.milliseconds.size(); ++n) {
    ratios.push_back(planned.milliseconds[n] / other.milliseconds[n]);
  }
  std::ranges::sort(ratios);
  return ratios.empty() ? 0 : ratios[ratios.size() / 2];
}

/// Without a device: what the kernels take.
int list_tiles(const Flags& flags, const Work& work, io::TextOutput& json) {
  const GpuLimits* gpu = known_gpu(flags.arch);
  if (gpu == nullptr) {
    std::string names;
    for (const GpuLimits& known : known_gpus()) names += " " + known.arch;
    fail(Status::invalid_argument, "--arch", "is {}; known are{}", flags.arch, names);
  }
  const Problem problem = call_of(work, {}, device, Data::optional).problem;
  std::vector<ForwardTuning> ways = candidates(flags, problem, *gpu);
  if (!flags.list) ways = that_compile(ways, problem, *gpu);
  std::vector<Row> rows;
  for (const ForwardTuning& tuning : ways) {
    rows.push_back({.tile = *tuning.tile,
                    .plan = plan_cuda_forward(problem, *gpu, tuning),
                    .use = {},
                    .planned = rows.empty()});
  }
  if (flags.list) {
    for (const Row& row : rows) fmt::print("{}\n", tile_text(row.tile));
    return 0;
  }
  for (Row& row : rows) {
    const KernelSpec& spec = row.plan.main();
    row.use = cuda::cubin_use(*cuda::kernel_store().cubin(spec, gpu->arch), spec.entry);
  }
  fmt::print("{}: {}\n", gpu->arch, work.text());
  print_rows(rows, work);
  if (json.wanted()) json.write(json_text(gpu->arch, rows, work));
  return 0;
}

Call upload(const Work& work, Tensors& tensors) {
  Addresses at{tensors.q(), tensors.k(), tensors.v(), tensors.out(), tensors.lse()};
  if (!work.lengths.empty()) {
    const std::vector<int32_t> begins = cu_seqlens(work);
    at.cu_seqlens = tensors.add(std::as_bytes(std::span(begins)));
  }
  if (work.alibi) {
    const std::vector<float> slopes = alibi_slopes(work);
    at.alibi_slopes = tensors.add(std::as_bytes(std::span(slopes)));
  }
  if (work.bias != Bias::none) {
    const std::vector<uint16_t> numbers = bias_numbers(work);
    at.bias = tensors.add(std::as_bytes(std::span(numbers)));
  }
  return call_of(work, at, device, Data::required);
}

int time_tiles(const Flags& flags, const Work& work, io::TextOutput& json) {
  const GpuLimits gpu = cuda::limits_of(cuda::device(device.id));
  const Problem problem = call_of(work, {}, device, Data::optional).problem;
  const std::vector<ForwardTuning> ways =
      that_compile(candidates(flags, problem, gpu), problem, gpu);
  fmt::print("{}, commit {}: {}; {} rounds\n", check::cuda_text(device.id), support::commit,
             work.text(), flags.rounds);
  Tensors tensors(
      device.id, work.dtype,
      {work.tokens_q() * work.heads_q * work.head_dim,
       work.tokens_k() * work.heads_k * work.head_dim,
       work.tokens_k() * work.heads_k * work.head_dim_v,
       work.tokens_q() * work.heads_q * work.head_dim_v, work.tokens_q() * work.heads_q});
  Contest contest(upload(work, tensors), tensors, ways);
  cuda::prepare(contest.kernels(), device.id);
  contest.check();
  std::mt19937_64 random(1);
  contest.time(flags.rounds, random);

  std::vector<Row> rows;
  for (size_t n = 0; n < ways.size(); ++n) {
    const cuda::LoadedKernel& kernel = cuda::load(contest.plan(n).main(), device.id);
    const Measured& measured = contest.measured()[n];
    rows.push_back({*ways[n].tile,
                    contest.plan(n),
                    {kernel.registers, kernel.local_bytes, {}},
                    n == 0,
                    &measured,
                    ratio(contest.measured().front(), measured)});
  }
  print_rows(rows, work);
  if (json.wanted()) json.write(json_text(check::cuda_text(device.id), rows, work));
  return std::ranges::all_of(contest.measured(), &Measured::right) ? 0 : 1;
}

int run(const Flags& flags) {
  const Work work = work_of(flags);
  io::TextOutput json(flags.json);
  return flags.arch.empty() ? time_tiles(flags, work, json) : list_tiles(flags, work, json);
}

CLI::Validator head_dim() {
  return {[](const std::string& text) -> std::string {
            int n = 0;
            const bool number = CLI::detail::lexical_cast(text, n);
            if (number && n % 8 == 0 && ((n >= 8 && n <= 512) || n == 576)) return {};
            return "is " + text +
                   "; allowed are multiples of 8 from 8 to 512, and 576 with 512 of v";
          },
          "N"};
}

void add_problem_flags(CLI::App& app, Flags& flags) {
  Work& w = flags.work;
  const auto number = [&](const char* flag, auto& value, const char* help) {
    using Number = std::remove_reference_t<decltype(value)>;
    return app.add_option(flag, value, help)->check(CLI::Range(Number{1}, Number{1} << 24));
  };
  app.add_option("--head-dim", w.head_dim, "columns of q and k")->required()->check(head_dim());
  app.add_option("--head-dim-v", w.head_dim_v, "columns of v; those of q if not given")
      ->check(head_dim());
  CLI::Option* seqlen = number("--seqlen", w.seqlen_q, "queries of a sequence");
  CLI::Option* seqlen_k = number("--seqlen-k", w.seqlen_k, "keys; as many as queries if not given");
  number("--heads", w.heads_q, "query heads; 2048 / head_dim if not given");
  number("--heads-k", w.heads_k, "key heads; as many as query heads if not given");
  CLI::Option* tokens =
      number("--tokens", flags.tokens, "queries of all sequences together")->capture_default_str();
  CLI::Option* batch = number("--batch", w.batch, "sequences, instead")->excludes(tokens);
  app.add_option(
         "--packed", flags.packed,
         "packed sequences of lengths A,B,...; or of lengths around 512, drawn with a seed: "
         "lognormal:COUNT:SEED")
      ->excludes(seqlen, seqlen_k, tokens, batch);
  app.add_flag("--causal", w.causal, "query i sees key j only if j <= i + Sk - Sq");
  app.add_option("--window", w.window, "keys seen before the diagonal; all if not given")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  app.add_option("--softcap", w.softcap, "scores become cap * tanh(score / cap)")
      ->check(CLI::PositiveNumber);
  app.add_option("--dropout", w.dropout_p, "probability with which an element of P is dropped")
      ->check(CLI::Range(0.0, 0.999));
  app.add_flag("--alibi", w.alibi, "with ALiBi");
  app.add_option("--bias", w.bias, "with a bias of all heads: of each key, or each row and key")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Bias>{{"keys", Bias::keys}, {"rows", Bias::rows}}))
      ->excludes("--packed");
  app.add_option("--family", w.family, "whose kernel; the plan's if not given")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Family>{{"sm80", Family::sm80}, {"sm90", Family::sm90}}));
  app.add_option("--dtype", flags.dtype, "of q, k, v and out")
      ->check(CLI::IsMember({"bf16", "fp16"}))
      ->capture_default_str();
}

void add_flags(CLI::App& app, Flags& flags) {
  add_problem_flags(app, flags);
  app.add_option("--tile", flags.tiles,
                 "tiles to be timed: warps=8,keys=64,... of sm80, groups=3,keys=80,... of sm90")
      ->type_name("TILE");
  app.add_flag("--search", flags.search, "all tiles that can be sensible");
  app.add_option("--section", flags.section,
                 "heads whose tiles alternate, for all but the planned one")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--rounds", flags.rounds, "how often each is timed, for 10 ms")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  CLI::Option* json = app.add_option("--json", flags.json, "write every round to FILE");
  json->type_name("FILE");
  CLI::Option* arch = app.add_option("--arch", flags.arch,
                                     "compile for this one and print what the kernels take; times "
                                     "nothing, needs no device");
  app.add_flag("--list", flags.list, "compile nothing either: print the tiles")
      ->needs(arch)
      ->excludes(json);
  app.footer(footer);
}

}  // namespace
}  // namespace fa::bench

int main(int argc, char** argv) {
  CLI::App app("Tiles of the forward kernel beside the planned one", "tiles");
  fa::bench::Flags flags;
  fa::bench::add_flags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    return fa::bench::run(flags);
  } catch (const std::exception& error) {
    fmt::print(stderr, "tiles: {}\n", error.what());
    return 2;
  }
}
