#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "commands.hpp"
#include "common/exit.hpp"
#include "run/finite.hpp"
#include "run/inputs.hpp"
#include "run/results.hpp"
#include "support/io/printed.hpp"
#include "support/text.hpp"
#include "system/shown.hpp"
#include "verify/verify.hpp"

namespace fa::cli {
namespace {

constexpr const char* run_examples =
    R"(A SRC is FILE.npy, FILE.safetensors:NAME, or a NAME in --tensors. Types: float32, float16, bfloat16
(safetensors only); lengths int32 or int64. Tensors of 3 dimensions without --cu-seqlens are one
sequence. Results: out, lse [B, Hq, Sq] (packed [Hq, Tq]), with --dout also dq, dk, dv, and dbias and
dsinks where bias and sinks are given. --out is a folder (for .npy) or FILE.safetensors; nothing is
written on an error.

Examples:
  fa run --q q.npy --k k.npy --v v.npy --causal --out results
  fa run --tensors qkv.safetensors --out o.safetensors --check
  fa run --tensors model.safetensors --q layer0.q --k layer0.k --v layer0.v --window-left 1023 \
         --causal --out results.safetensors
  fa run --tensors qkv.safetensors --dout dout --bias bias.npy --out gradients.safetensors
  fa run --q q.npy --k k.npy --v v.npy --cu-seqlens-q cu.npy --cu-seqlens-k cu.npy --out results)";

struct RunCommand {
  RunFlags flags;
  std::string out;
  bool check = false;
};

/// Beyond this many multiply-adds of the reference, some seconds, rows are sampled.
constexpr double most_reference_work = 1e10;

/// The outputs of a call, in the shapes of the inputs.
class RunOutputs {
 public:
  explicit RunOutputs(const RunInputs& in) {
    const auto& q_shape = in.q.shape();
    const size_t rows = q_shape.size() - 2;  // dimensions before heads and head_dim
    std::vector<int64_t> out_shape = q_shape;
    out_shape.back() = in.v.shape().back();
    out_ = io::Array(in.q.dtype(), out_shape);
    std::vector<int64_t> lse_shape(q_shape.begin(), q_shape.begin() + static_cast<int64_t>(rows));
    lse_shape.insert(lse_shape.end() - 1, q_shape[rows]);
    lse_ = io::Array(float32, lse_shape);
    if (!in.gradients()) return;
    dq_ = io::Array(in.q.dtype(), in.q.shape());
    dk_ = io::Array(in.k.dtype(), in.k.shape());
    dv_ = io::Array(in.v.dtype(), in.v.shape());
    for (size_t n = 0; n < tensor_option_count; ++n) {
      const io::Array& array = in.of_options[n].array;
      if (!tensor_options[n].gradient || !array.given()) continue;
      of_options_[n] = io::Array(array.dtype(), array.shape());
    }
  }

  BackwardArgs args(const RunInputs& in) const {
    BackwardArgs args{in.dout.tensor(), in.q.tensor(),   in.k.tensor(), in.v.tensor(),
                      out_.tensor(),    lse_.tensor(),   dq_.tensor(),  dk_.tensor(),
                      dv_.tensor(),     in.dlse.tensor()};
    for (size_t n = 0; n < tensor_option_count; ++n) {
      const auto& gradient = tensor_options[n].gradient;
      if (gradient) args.*gradient->argument = of_options_[n].tensor();
    }
    return args;
  }

  /// Results of a single sequence lose the batch of 1 that the inputs were given.
  void drop_batch(const RunInputs& in) {
    const auto drop = [](io::Array& array) {
      if (array.given()) array.reshape({array.shape().begin() + 1, array.shape().end()});
    };
    if (in.one_sequence_q()) {
      for (io::Array* array : {&out_, &lse_, &dq_}) drop(*array);
    }
    if (in.one_sequence_k()) {
      for (io::Array* array : {&dk_, &dv_}) drop(*array);
    }
    for (size_t n = 0; n < tensor_option_count; ++n) {
      if (of_options_[n].given()) of_options_[n].reshape(in.of_options[n].shape);
    }
  }

  std::vector<NamedArray> named() const {
    std::vector<NamedArray> all{
        {"out", &out_}, {"lse", &lse_}, {"dq", &dq_}, {"dk", &dk_}, {"dv", &dv_}};
    for (size_t n = 0; n < tensor_option_count; ++n) {
      const auto& gradient = tensor_options[n].gradient;
      if (gradient) all.emplace_back(gradient->name, &of_options_[n]);
    }
    std::erase_if(all, [](const NamedArray& result) { return !result.second->given(); });
    return all;
  }

 private:
  io::Array out_, lse_, dq_, dk_, dv_;
  std::array<io::Array, tensor_option_count> of_options_;  ///< gradients, as tensor_options
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The first call starts threads and touches new memory; a short one is timed again without that,
/// which writes the same bits.
template <typename Pass>
void time_pass(const char* name, const Pass& pass) {
  constexpr double short_call = 0.5;
  constexpr int repeats = 5;
  const auto timed = [&] {
    const auto start = std::chrono::steady_clock::now();
    pass();
    return seconds_since(start);
  };
  const double first = timed();
  fmt::print("{:<9} {} (first call)", name, support::seconds_text(first));
  if (first < short_call) {
    double warm = timed();
    for (int i = 1; i < repeats; ++i) warm = std::min(warm, timed());
    fmt::print(", {} warm (the shortest of {})", support::seconds_text(warm), repeats);
  }
  fmt::print("\n");
}

void compute(const BackwardArgs& args, const Options& options) {
  time_pass("forward", [&] { forward({args.q, args.k, args.v, args.out, args.lse}, options); });
  if (args.dout.given()) time_pass("backward", [&] { backward(args, options); });
}

/// Throws what `compute` would throw, before shapes and lengths are relied on.
void validate(const BackwardArgs& args, const Options& options) {
  if (args.dout.given()) {
    plan_backward(args, options);
  } else {
    plan_forward({args.q, args.k, args.v, args.out, args.lse}, options);
  }
}

/// Prints the comparison with float64; whether all is right.
bool check(const BackwardArgs& args, const Options& options) {
  const Finished call{args, options};
  const bool all = reference_work(call) <= most_reference_work;
  const auto verdicts = all ? verify_all(call) : verify_sample(call, {});
  fmt::print("\nAgainst float64{}:\n{}", all ? "" : ", a random sample of rows", to_text(verdicts));
  for (const Verdict& verdict : verdicts) {
    if (!verdict.right()) return false;
  }
  return true;
}

int run(const RunCommand& command) {
  std::optional<ResultPath> path;
  if (!command.out.empty()) {
    path.emplace(command.out);
  } else if (!command.check) {
    throw UsageError("--out or --check is needed");
  }
  const RunInputs inputs(command.flags);
  if (path && path->is_folder() && inputs.q.dtype() == bfloat16) {
    throw UsageError("--out: npy files cannot hold bfloat16; name a FILE.safetensors");
  }
  for (const auto& [name, array] :
       {std::pair("q", &inputs.q), std::pair("k", &inputs.k), std::pair("v", &inputs.v)}) {
    fmt::print("{:<9} {} [{}]\n", name, support::dtype_text(array->dtype()),
               fmt::join(array->shape(), ", "));
  }
  RunOutputs outputs(inputs);
  const BackwardArgs args = outputs.args(inputs);
  if (path) path->try_writing(outputs.named(), inputs.files());
  if (command.check) {
    validate(args, inputs.options());
    refuse_non_finite(inputs, args);
  }
  compute(args, inputs.options());
  if (command.check && !check(args, inputs.options())) {
    fmt::print("\nWRONG: an error is beyond its bound; nothing is written\n");
    return exit_wrong_result;
  }
  if (path) {
    outputs.drop_batch(inputs);
    WrittenResults written = path->write(outputs.named());
    std::string names;
    for (const auto& [name, array] : outputs.named()) names += " " + name;
    fmt::print("wrote    {} to {}{}\n", names, system::shown(command.out),
               path->is_folder() ? " (.npy)" : "");
    io::flush_printed();
    written.commit();
  }
  return exit_right;
}

}  // namespace

Command add_run(const support::Flags& program) {
  auto command = std::make_shared<RunCommand>();
  const support::Flags app = program.command("run", "Attention of your own tensors");
  command->flags.add_to(app);
  app.value("--out", command->out, "a folder for .npy files, or FILE.safetensors")
      .type_name("PATH");
  app.on("--check", command->check, "compare the results with float64");
  app.footer(run_examples);
  return {app, [command] { return run(*command); }};
}

}  // namespace fa::cli
