#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "common/dtype_name.hpp"
#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "common/tensor_options.hpp"
#include "fa/attention.hpp"
#include "hwy/highway.h"
#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"
#include "plan/cuda/gpu.hpp"
#include "problem/problem.hpp"
#include "support/commit.hpp"
#include "support/measure/machine.hpp"

namespace fa::cli {
namespace {

constexpr const char* info_examples = R"(Examples:
  fa info
  fa info --plan --batch 2 --seqlen 8192 --heads 32 --heads-k 8 --head-dim 128 --causal
  fa info --plan --packed --batch 8 --seqlen 4096 --sinks --dropout-p 0.1
  fa info --plan --arch sm_90a --seqlen 8192 --causal
  FA_CPU_TARGET=avx2 fa info)";

struct InfoFlags {
  bool plan = false;
  std::string arch;
  int64_t batch = 1;
  int64_t seqlen = 4096;
  std::optional<int64_t> seqlen_k;
  int64_t heads = 32;
  std::optional<int64_t> heads_k;
  int64_t head_dim = 128;
  std::optional<int64_t> head_dim_v;
  std::string dtype = "bfloat16";
  bool packed = false;
  std::array<bool, tensor_option_count> of_options{};  ///< as tensor_options
  bool dlse = false;
  Options options;
};

/// A problem in shapes alone: no tensor has data, but for the lengths of packed sequences.
class PlannedProblem {
 public:
  explicit PlannedProblem(const InfoFlags& f) : flags_(f), options_(f.options) {
    const int64_t seqlen_k = f.seqlen_k.value_or(f.seqlen);
    const int64_t heads_k = f.heads_k.value_or(f.heads);
    const int64_t head_dim_v = f.head_dim_v.value_or(f.head_dim);
    const DType dtype = parse_dtype(f.dtype);
    const auto rows = [&](int64_t seqlen, int64_t heads, int64_t width) {
      return f.packed ? add(dtype, {f.batch * seqlen, heads, width})
                      : add(dtype, {f.batch, seqlen, heads, width});
    };
    const Tensor q = rows(f.seqlen, f.heads, f.head_dim);
    const Tensor k = rows(seqlen_k, heads_k, f.head_dim);
    const Tensor v = rows(seqlen_k, heads_k, head_dim_v);
    const Tensor out = rows(f.seqlen, f.heads, head_dim_v);
    const Tensor lse = f.packed ? add(float32, {f.heads, f.batch * f.seqlen})
                                : add(float32, {f.batch, f.heads, f.seqlen});
    args_ = {out, q, k, v, out, lse, q, k, v};
    if (f.dlse) args_.dlse = lse;
    for (size_t n = 0; n < tensor_option_count; ++n) {
      const TensorOption& option = tensor_options[n];
      if (!f.of_options[n]) continue;
      const Tensor tensor =
          option.of_scores ? add(dtype, {1, f.heads, f.seqlen, seqlen_k}) : add(float32, {f.heads});
      options_.*option.argument = tensor;
      if (option.gradient) args_.*option.gradient->argument = tensor;
    }
    if (f.packed) pack(seqlen_k);
  }

  std::string text() const {
    const ForwardArgs forward{args_.q, args_.k, args_.v, args_.out, args_.lse};
    if (!flags_.arch.empty()) {
      const GpuLimits& gpu = *known_gpu(flags_.arch);
      const Call first = validate(forward, options_, Data::optional);
      const Call second = validate(args_, options_, Data::optional);
      return fmt::format("forward\n{}\nbackward\n{}",
                         to_text(plan_cuda_forward(first.problem, gpu)),
                         backward_text(second.problem, gpu));
    }
    return fmt::format("forward\n{}\nbackward\n{}", plan_forward(forward, options_).text(),
                       plan_backward(args_, options_).text());
  }

 private:
  /// Or why it is not offered.
  static std::string backward_text(const Problem& problem, const GpuLimits& gpu) {
    try {
      return to_text(plan_cuda_backward(problem, gpu));
    } catch (const Error& error) {
      if (error.status() != Status::unsupported) throw;
      return fmt::format("none: {}\n", error.what());
    }
  }

  Tensor add(DType dtype, std::vector<int64_t> shape, void* data = nullptr) {
    const auto& kept =
        shapes_.emplace_back(std::make_unique<std::vector<int64_t>>(std::move(shape)));
    const Device device{flags_.arch.empty() ? cpu_device : cuda_device, 0};
    return {data, device, static_cast<int32_t>(kept->size()), dtype, kept->data(), nullptr, 0};
  }

  void pack(int64_t seqlen_k) {
    need_positions("--seqlen", flags_.seqlen);
    need_positions(flags_.seqlen_k ? "--seqlen-k" : "--seqlen", seqlen_k);
    for (int64_t b = 0; b <= flags_.batch; ++b) {
      cu_seqlens_q_.push_back(static_cast<int32_t>(b * flags_.seqlen));
      cu_seqlens_k_.push_back(static_cast<int32_t>(b * seqlen_k));
    }
    options_.cu_seqlens_q = add(int32, {flags_.batch + 1}, cu_seqlens_q_.data());
    options_.cu_seqlens_k = add(int32, {flags_.batch + 1}, cu_seqlens_k_.data());
    options_.max_seqlen_q = flags_.seqlen;
    options_.max_seqlen_k = seqlen_k;
  }

  /// cu_seqlens holds int32.
  void need_positions(const char* flag, int64_t seqlen) const {
    if (flags_.batch * seqlen <= INT32_MAX) return;
    throw UsageError(fmt::format("--batch: {} with {} {} makes {} tokens; with --packed at most {}",
                                 flags_.batch, flag, seqlen, flags_.batch * seqlen, INT32_MAX));
  }

  const InfoFlags& flags_;
  Options options_;
  BackwardArgs args_;
  std::vector<std::unique_ptr<std::vector<int64_t>>> shapes_;
  std::vector<int32_t> cu_seqlens_q_, cu_seqlens_k_;
};

int run(const InfoFlags& flags) {
  if (flags.plan) {
    fmt::print("{}", PlannedProblem(flags).text());
    return exit_right;
  }
  fmt::print("version          {} ({})\n", version(), support::commit);
  fmt::print("cpu              {}\n", support::cpu_model());
  fmt::print("threads          {}\n", support::default_threads());
  fmt::print("instruction set  {}\n", cpu_target());
  fmt::print("available        {}\n", cpu_targets());
  fmt::print("highway          {}.{}.{}\n", HWY_MAJOR, HWY_MINOR, HWY_PATCH);
  std::istringstream lines(cuda_info());
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(": ");
    fmt::print("{:16} {}\n", line.substr(0, colon), line.substr(colon + 2));
  }
  return exit_right;
}

}  // namespace

Command add_info(const support::Flags& program) {
  auto flags = std::make_shared<InfoFlags>();
  const support::Flags app =
      program.command("info", "The library and this machine; plans of problems");
  const support::Flag plan =
      app.on("--plan", flags->plan, "print how a problem would be run, forward and backward");
  std::set<std::string> archs;
  for (const GpuLimits& gpu : known_gpus()) archs.insert(gpu.arch);
  app.value("--arch", flags->arch,
            "the plans of a GPU, which need not be here, instead of the CPU's")
      .one_of(archs);
  const auto extent = [&](const char* flag, auto& value, const char* help) {
    app.value(flag, value, help).group("Problem").within(0, int64_t{1} << 30);
  };
  extent("--batch", flags->batch, "sequences");
  extent("--seqlen", flags->seqlen, "queries of each sequence");
  extent("--seqlen-k", flags->seqlen_k, "keys of each sequence; --seqlen when not given");
  extent("--heads", flags->heads, "query heads");
  extent("--heads-k", flags->heads_k, "key heads; --heads when not given");
  extent("--head-dim", flags->head_dim, "head_dim of q and k");
  extent("--head-dim-v", flags->head_dim_v, "head_dim of v; --head-dim when not given");
  app.value("--dtype", flags->dtype, "float32, float16 or bfloat16").group("Problem");
  const auto with = [&](const char* flag, bool& value, const char* help) {
    app.on(flag, value, help).group("Problem");
  };
  with("--packed", flags->packed, "packed sequences with cu_seqlens");
  for (size_t n = 0; n < tensor_option_count; ++n) {
    with(tensor_options[n].plan_flag, flags->of_options[n], tensor_options[n].plan_help);
  }
  with("--dlse", flags->dlse, "a gradient through LSE");
  add_option_flags(app, flags->options);
  app.all_need(plan);
  app.footer(info_examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
