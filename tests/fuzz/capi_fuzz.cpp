// Any call of the C ABI, right or wrong: it gives a status, and
// - after a refusal no output has been written, and there is a message;
// - a plan of the same call gives the same bits.
// The sanitizers watch the memory, of which no tensor has a byte more than it says.
#include <cstdlib>
#include <vector>

#include "accepted.hpp"
#include "fa/fa.h"
#include "problem.hpp"

namespace {

using fa::fuzz::draw_problem;
using fa::fuzz::Name;
using fa::fuzz::Problem;
using fa::fuzz::require;
using fa::fuzz::Sized;

constexpr size_t largest_workspace = size_t{64} << 20;

bool checked(fa_status status) {
  require(status >= FA_OK && status < FA_INTERNAL, "an unknown status, or an internal error");
  require(status == FA_OK || *fa_last_error() != '\0', "an error without a message");
  return status == FA_OK;
}

using Contents = std::vector<std::vector<std::byte>>;
Contents contents(const Problem& problem) {
  Contents result;
  for (const auto& operand : problem.operands) {
    result.push_back(operand ? operand->contents() : std::vector<std::byte>{});
  }
  return result;
}
void restore(Problem& problem, const Contents& before) {
  for (size_t i = 0; i < before.size(); ++i) {
    if (problem.operands[i]) problem.operands[i]->set_contents(before[i]);
  }
}

struct Plan {
  ~Plan() { fa_plan_destroy(plan); }
  fa_plan* plan = nullptr;
};

/// One of the two passes: its functions, and its arguments in their own memory.
template <typename Args>
class Pass {
 public:
  using Direct = fa_status (*)(const Args*, const fa_options*, fa_stream);
  using MakePlan = fa_status (*)(const Args*, const fa_options*, fa_plan**);
  using RunPlan = fa_status (*)(const fa_plan*, const Args*, const fa_options*, void*, size_t,
                                fa_stream);
  struct Functions {
    Direct direct;
    MakePlan plan;
    RunPlan run;
  };

  Pass(Problem& problem, const Args& args, const Functions& functions)
      : problem_(problem),
        functions_(functions),
        args_(args, problem.beyond),
        options_(problem.options, problem.beyond) {}

  bool direct() { return checked(functions_.direct(args(), options(), nullptr)); }
  bool plan(Plan& plan) {
    const bool valid = checked(functions_.plan(args(), options(), &plan.plan));
    require(valid == (plan.plan != nullptr), "a plan that is null, or is not after an error");
    if (!valid) return false;
    const char* text = nullptr;
    require(fa_plan_text(plan.plan, &text) == FA_OK && *text != '\0', "a plan without words");
    require(fa_plan_prepare(plan.plan) == FA_OK, "a plan for the CPU that cannot be prepared");
    return true;
  }
  /// With the workspace that it asks for, less or more, aligned or not.
  bool run(const Plan& plan, int64_t more, size_t shift) {
    size_t bytes = 0;
    require(fa_plan_workspace_bytes(plan.plan, &bytes) == FA_OK, "a plan without a size");
    if (bytes > largest_workspace) return false;
    const size_t given = more < 0 && bytes < static_cast<size_t>(-more) ? 0 : bytes + more;
    const size_t whole = (given + shift + 63) / 64 * 64;
    // Its end is the memory's end.
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, whole));
    const bool valid =
        checked(functions_.run(plan.plan, args(), options(), memory + shift, given, nullptr));
    std::free(memory);
    return valid;
  }

  /// Directly and as planned.
  bool both() {
    const Contents before = contents(problem_);
    const bool valid = direct();
    const Contents after = contents(problem_);
    require(valid || before == after, "an output was written before the call was refused");
    Plan planned;
    if (!valid) {
      if (plan(planned)) run(planned, 0, 0);  // lacks data, perhaps
      return false;
    }
    if (problem_.aliased) return true;
    restore(problem_, before);
    require(plan(planned) && run(planned, 0, 0), "what ran directly cannot be planned");
    require(contents(problem_) == after, "a planned call gives other bits");
    return true;
  }

 private:
  const Args* args() const { return problem_.without_args ? nullptr : args_.template as<Args>(); }
  const fa_options* options() const {
    return problem_.without_options ? nullptr : options_.as<fa_options>();
  }

  Problem& problem_;
  const Functions& functions_;
  Sized args_;
  Sized options_;
};

constexpr Pass<fa_forward_args>::Functions forward{fa_forward, fa_plan_forward,
                                                   fa_plan_run_forward};
constexpr Pass<fa_backward_args>::Functions backward{fa_backward, fa_plan_backward,
                                                     fa_plan_run_backward};

template <typename Visit>
bool with_pass(FuzzedDataProvider& data, Problem& problem, Visit visit) {
  if (data.ConsumeBool()) {
    return visit(Pass<fa_forward_args>(problem, problem.forward_args(), forward));
  }
  return visit(Pass<fa_backward_args>(problem, problem.backward_args(), backward));
}

bool call(FuzzedDataProvider& data) {
  Problem problem = draw_problem(data, false);
  return with_pass(data, problem, [](auto pass) { return pass.both(); });
}

bool only_plan(FuzzedDataProvider& data) {
  Problem problem = draw_problem(data, true);
  return with_pass(data, problem, [](auto pass) {
    Plan plan;
    return pass.plan(plan);
  });
}

/// A plan of one call run with another, in any workspace.
bool run_others_plan(FuzzedDataProvider& data) {
  Problem planned = draw_problem(data, false);
  Plan plan;
  if (!with_pass(data, planned, [&](auto pass) { return pass.plan(plan); })) return false;
  const int64_t more = data.ConsumeIntegralInRange(-1, 1) * 64;
  const size_t shift = data.PickValueInArray({0, 0, 0, 8});
  const bool same = data.ConsumeBool();
  Problem other = same ? std::move(planned) : draw_problem(data, false);
  const Contents before = contents(other);
  const bool valid = with_pass(data, other, [&](auto pass) { return pass.run(plan, more, shift); });
  require(valid || contents(other) == before, "an output was written before the run was refused");
  return valid;
}

bool merge(FuzzedDataProvider& data) {
  Problem problem = draw_problem(data, false);
  const Contents before = contents(problem);
  const auto any = [&](Name first, Name second) {
    return problem.c(data.ConsumeIntegralInRange(0, 7) > 0 ? first : second);
  };
  const fa_tensor* second_lse = problem.c(fa::fuzz::dlse);
  const bool valid = checked(
      fa_merge(any(Name::out, Name::q), any(Name::lse, Name::bias), any(Name::dout, Name::k),
               second_lse != nullptr ? second_lse : problem.c(Name::lse),
               any(Name::out, Name::dout), any(Name::lse, Name::dlse), nullptr));
  require(valid || contents(problem) == before,
          "an output was written before the merge was refused");
  return valid;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  // Tensors that say they are a GPU's are not.
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  fa::fuzz::judge_at_exit();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  const auto kind = data.ConsumeIntegralInRange(0, 9);
  fa::fuzz::count(kind < 6    ? call(data)
                  : kind == 6 ? only_plan(data)
                  : kind < 9  ? run_others_plan(data)
                              : merge(data));
  return 0;
}
