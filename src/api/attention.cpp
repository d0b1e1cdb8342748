// The public functions: validate, plan, run.
#include "fa/attention.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "cpu/passes.hpp"
#include "cpu/target.hpp"
#include "cpu/threads.hpp"
#include "cpu/workspace_pool.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/runtime/memory_pool.hpp"
#include "plan/cpu/plan.hpp"
#include "problem/argument.hpp"
#include "problem/problem.hpp"

namespace fa {

Error::Error(Status status, const std::string& message)
    : std::runtime_error(message), status_(status) {}
Error::~Error() = default;

View::View(const void* data, DType dtype, const int64_t* shape, const int64_t* strides,
           int32_t ndim, Device device)
    : View(Tensor{const_cast<void*>(data), device, ndim, dtype, shape, strides, 0}) {
  if (ndim < 0 || ndim > max_dims) {
    throw Error(Status::invalid_argument,
                fmt::format("View: has {} dimensions; allowed are 0 to {}", ndim, int{max_dims}));
  }
}

namespace {

const int64_t* checked_strides(std::initializer_list<int64_t> shape,
                               std::initializer_list<int64_t> strides) {
  if (strides.size() == 0) return nullptr;
  if (strides.size() != shape.size()) {
    throw Error(Status::invalid_argument,
                fmt::format("View: {} strides for {} dimensions", strides.size(), shape.size()));
  }
  return strides.begin();
}

/// In a child of fork() a call that names no number gets one thread: the bits are the same.
void need_threads(const Problem& problem) {
  if (problem.run.num_threads > 1 && cpu::threads_lost()) {
    throw Error(Status::invalid_argument,
                fmt::format("num_threads: is {}; allowed is 1 (or 0, the default) in a child that "
                            "fork() made of a process with threads, since it has none of them; a "
                            "process started by spawn or exec may use more",
                            problem.run.num_threads));
  }
}

CpuPlan plan_on_cpu(const Problem& problem) {
  need_threads(problem);
  return plan_cpu(problem, runs_alone(problem) ? 1 : cpu::default_threads(),
                  cpu::bfloat16_arithmetic());
}

void run_pass(const CpuPlan& plan, const Call& call, void* workspace) {
  if (plan.problem.pass == Pass::forward) {
    cpu::forward(plan, call, workspace);
  } else {
    cpu::backward(plan, call, workspace);
  }
}

template <typename Args>
void plan_and_run(const Args& args, const Options& options, Stream stream) {
  const Call call = validate(args, options, Data::required);
  if (call.problem.device.type == cuda_device) {
    cuda::plan_once(call.problem)->run(call, stream);
    return;
  }
  const CpuPlan plan = plan_on_cpu(call.problem);
  const cpu::Workspace workspace(plan.workspace_bytes);
  run_pass(plan, call, workspace.data());
}

}  // namespace

View::View(const void* data, DType dtype, std::initializer_list<int64_t> shape,
           std::initializer_list<int64_t> strides, Device device)
    : View(data, dtype, shape.begin(), checked_strides(shape, strides),
           static_cast<int32_t>(std::min(shape.size(), size_t{max_dims} + 1)), device) {}

void forward(const ForwardArgs& args, const Options& options, Stream stream) {
  plan_and_run(args, options, stream);
}

void forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
             const Tensor& lse, const Options& options, Stream stream) {
  forward(ForwardArgs{q, k, v, out, lse}, options, stream);
}

void backward(const BackwardArgs& args, const Options& options, Stream stream) {
  plan_and_run(args, options, stream);
}

void backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
              const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
              const Tensor& dv, const Options& options, Stream stream) {
  backward(BackwardArgs{dout, q, k, v, out, lse, dq, dk, dv}, options, stream);
}

void merge(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b, const Tensor& lse_b,
           const Tensor& out, const Tensor& lse, Stream stream) {
  const MergeCall call = validate_merge(out_a, lse_a, out_b, lse_b, out, lse);
  if (out.device.type == cuda_device) {
    cuda::merge(call, out.device.id, stream);
  } else {
    cpu::merge(call);
  }
}

namespace detail {

struct PlanState {
  std::variant<CpuPlan, std::shared_ptr<const cuda::Planned>> plan;

  const CpuPlan* cpu() const { return std::get_if<CpuPlan>(&plan); }
  const cuda::Planned& cuda() const {
    return *std::get<std::shared_ptr<const cuda::Planned>>(plan);
  }
  const Problem& problem() const { return cpu() ? cpu()->problem : cuda().problem(); }
  size_t workspace_bytes() const {
    return cpu() ? cpu()->workspace_bytes : cuda().workspace_bytes();
  }
};

}  // namespace detail

namespace {

/// The plan's problem must be the call's. Rows may be aligned to more than was planned, and for the
/// CPU's kernels, which take any, to less.
void need_same(const Problem& planned, Problem problem) {
  const auto fail_on = [](const char* what) {
    throw Error(Status::invalid_argument,
                fmt::format("plan: was made for other tensors or options ({} differs)", what));
  };
  if (problem.pass != planned.pass) fail_on("the pass");
  if (problem.device != planned.device) fail_on("the device");
  if (problem.device.type == cuda_device && problem.alignment < planned.alignment) {
    throw Error(Status::invalid_argument,
                fmt::format("plan: was made for rows aligned to {} bytes; these are to {}",
                            planned.alignment, problem.alignment));
  }
  problem.alignment = planned.alignment;
  if (problem.device.type == cuda_device && problem.score.bias && planned.score.bias &&
      planned.score.bias_aligned && !problem.score.bias_aligned) {
    throw Error(
        Status::invalid_argument,
        "plan: was made for a bias whose rows are aligned to 16 bytes and not repeated by a "
        "view; this one's are not");
  }
  problem.score.bias_aligned = planned.score.bias_aligned;
  if (problem.dtype != planned.dtype) fail_on("dtype");
  if (problem.batch != planned.batch) fail_on("batch");
  if (problem.q.heads != planned.q.heads || problem.k.heads != planned.k.heads) fail_on("heads");
  if (problem.q.seqlen != planned.q.seqlen || problem.q.tokens != planned.q.tokens ||
      problem.k.seqlen != planned.k.seqlen || problem.k.tokens != planned.k.tokens) {
    fail_on("seqlen");
  }
  if (problem != planned) fail_on("an option, head_dim or optional tensor");
}

template <typename Args>
void run_planned(const detail::PlanState& state, const Args& args, const Options& options,
                 void* workspace, size_t bytes, Stream stream) {
  const size_t needed = state.workspace_bytes();
  const auto extent = static_cast<int64_t>(std::min(bytes, needed));
  const Tensor room{workspace, args.q.device, 1, {1, 8, 1}, &extent, nullptr, 0};
  const Call call = validate(args, options, Data::required, workspace ? room : Tensor{});
  need_same(state.problem(), call.problem);
  if (bytes < needed) {
    throw Error(Status::invalid_argument,
                fmt::format("workspace: has {} bytes; the plan needs {}", bytes, needed));
  }
  if (needed > 0 && (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 64 != 0)) {
    throw Error(Status::invalid_argument,
                fmt::format("workspace: lies at {}; it must be a multiple of 64", workspace));
  }
  if (state.cpu() != nullptr && cpu::threads_lost()) {
    CpuPlan alone = *state.cpu();  // planned by the parent: the workspace is large enough
    need_threads(alone.problem);
    alone.threads = 1;
    run_pass(alone, call, workspace);
  } else if (state.cpu() != nullptr) {
    run_pass(*state.cpu(), call, workspace);
  } else {
    state.cuda().run(call, workspace, stream);
  }
}

template <typename Args>
std::shared_ptr<const detail::PlanState> make_plan(const Args& args, const Options& options) {
  const Call call = validate(args, options, Data::optional);
  auto state = std::make_shared<detail::PlanState>();
  if (call.problem.device.type == cuda_device) {
    state->plan = cuda::plan(call.problem);
  } else {
    state->plan = plan_on_cpu(call.problem);
  }
  return state;
}

}  // namespace

const detail::PlanState& Plan::state() const {
  if (state_ == nullptr) throw Error(Status::invalid_argument, "plan: is empty; plan a pass first");
  return *state_;
}

size_t Plan::workspace_bytes() const { return state().workspace_bytes(); }

std::string Plan::text() const {
  return state().cpu() != nullptr ? to_text(*state().cpu()) : state().cuda().text();
}

void Plan::prepare() const {
  if (state().cpu() == nullptr) state().cuda().prepare();
}

void Plan::run(const ForwardArgs& args, const Options& options, void* workspace, size_t bytes,
               Stream stream) const {
  run_planned(state(), args, options, workspace, bytes, stream);
}

void Plan::run(const BackwardArgs& args, const Options& options, void* workspace, size_t bytes,
               Stream stream) const {
  run_planned(state(), args, options, workspace, bytes, stream);
}

Plan plan_forward(const ForwardArgs& args, const Options& options) {
  Plan plan;
  plan.state_ = make_plan(args, options);
  return plan;
}

Plan plan_backward(const BackwardArgs& args, const Options& options) {
  Plan plan;
  plan.state_ = make_plan(args, options);
  return plan;
}

void release_memory() {
  cpu::release_workspaces();
  cuda::release_device_memory();
}

const char* cpu_target() {
  static const std::string name = cpu::target_name();
  return name.c_str();
}

const char* cpu_targets() {
  static const std::string names = fmt::format("{}", fmt::join(cpu::available_targets(), " "));
  return names.c_str();
}

const char* version() { return FA_VERSION; }

}  // namespace fa
