#include "run.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace judge {

namespace {

// A workspace whose neighbours are canaries.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : bytes_(bytes), memory_(bytes + 3 * guard, std::byte{0xff}) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    start_ = (guard - address % guard) % guard + guard;
  }
  std::byte* data() { return memory_.data() + start_; }
  [[nodiscard]] bool canaries_hold() const {
    const auto holds = [](std::byte b) { return b == std::byte{0xff}; };
    const auto end = memory_.begin() + static_cast<ptrdiff_t>(start_ + bytes_);
    return std::all_of(memory_.begin(), memory_.begin() + static_cast<ptrdiff_t>(start_), holds) &&
           std::all_of(end, memory_.end(), holds);
  }

 private:
  static constexpr size_t guard = 64;
  size_t bytes_;
  size_t start_ = 0;
  std::vector<std::byte> memory_;
};

bool failed(fa_status status, const char* what, Judge& judge) {
  if (status == FA_OK) return false;
  judge.fault(std::string(what) + ": status " + std::to_string(status) + ", " + fa_last_error());
  return true;
}

template <typename Args, typename PlanCall, typename RunCall>
bool by_plan(const Args& args, const fa_options& options, PlanCall make, RunCall run,
             Judge& judge) {
  fa_plan* plan = nullptr;
  if (failed(make(&args, &options, &plan), "plan", judge)) return false;
  const std::unique_ptr<fa_plan, void (*)(fa_plan*)> held(plan, fa_plan_destroy);
  size_t bytes = 0;
  if (failed(fa_plan_workspace_bytes(plan, &bytes), "fa_plan_workspace_bytes", judge)) return false;
  Workspace workspace(bytes);
  if (failed(run(plan, &args, &options, workspace.data(), bytes, nullptr), "run of a plan",
             judge)) {
    return false;
  }
  if (!workspace.canaries_hold()) judge.fault("bytes beside the workspace were written");
  return true;
}

bool forward(const Problem& p, const fa_options& options, bool plan, bool lse, Judge& judge) {
  fa_forward_args args{};
  args.size = sizeof args;
  args.q = p.q.abi();
  args.k = p.k.abi();
  args.v = p.v.abi();
  args.out = p.out.abi();
  args.lse = lse ? p.lse.abi() : nullptr;
  if (plan) return by_plan(args, options, fa_plan_forward, fa_plan_run_forward, judge);
  return !failed(fa_forward(&args, &options, nullptr), "fa_forward", judge);
}

bool backward(const Problem& p, const fa_options& options, bool plan, Judge& judge) {
  fa_backward_args args{};
  args.size = sizeof args;
  args.dout = p.dout.abi();
  args.q = p.q.abi();
  args.k = p.k.abi();
  args.v = p.v.abi();
  args.out = p.out.abi();
  args.lse = p.lse.abi();
  args.dq = p.dq.abi();
  args.dk = p.dk.abi();
  args.dv = p.dv.abi();
  args.dlse = p.dlse.abi();
  args.dbias = p.dbias.abi();
  args.dsinks = p.dsinks.abi();
  if (plan) return by_plan(args, options, fa_plan_backward, fa_plan_run_backward, judge);
  return !failed(fa_backward(&args, &options, nullptr), "fa_backward", judge);
}

struct Named {
  const char* name;
  Tensor* tensor;
};

using Copies = std::vector<std::vector<std::byte>>;

Copies copy(const std::vector<Named>& tensors) {
  Copies copies;
  for (const Named& t : tensors) copies.push_back(t.tensor->bytes());
  return copies;
}

void demand_equal(const std::vector<Named>& tensors, const Copies& before, const char* what,
                  Judge& judge) {
  for (size_t n = 0; n < tensors.size(); ++n) {
    if (tensors[n].tensor->bytes() != before[n]) {
      judge.fault(std::string(tensors[n].name) + what);
    }
  }
}

void compare(const Problem& p, Judge& judge) {
  const Expectation expected = expect(p);
  const double eps = p.format->eps();
  judge.compare("out", p.out, expected.out, eps);
  judge.compare("lse", p.lse, expected.lse, float32.eps());
  judge.compare("dq", p.dq, expected.dq, eps);
  judge.compare("dk", p.dk, expected.dk, eps);
  judge.compare("dv", p.dv, expected.dv, eps);
  const auto half_step = [](const Tensor& t) {
    return t.given() ? t.format().step_of_subnormals() / 2 : 0;
  };
  judge.compare("dbias", p.dbias, expected.dbias, eps, half_step(p.dbias));
  judge.compare("dsinks", p.dsinks, expected.dsinks, eps, half_step(p.dsinks));
  judge.compare_hull(p.out, expected, *p.format);
  judge.count_undecided(expected.undecided);
  const fa_options& o = p.options;
  if (!p.standard_normal || expected.fewest_keys < 64 || p.rows.most_used() == 0 ||
      o.has_scale != 0 || o.softcap != 0 || o.dropout_p > 0 || p.bias.given() || p.alibi.given() ||
      p.sinks.given() || p.dlse.given() || p.q.layout().repeated || p.k.layout().repeated ||
      p.v.layout().repeated || p.dout.layout().repeated) {
    return;
  }
  judge.compare_normal("out", p.out, expected.out, *p.format);
  judge.compare_normal("dq", p.dq, expected.dq, *p.format);
  judge.compare_normal("dk", p.dk, expected.dk, *p.format);
  judge.compare_normal("dv", p.dv, expected.dv, *p.format);
}

}  // namespace

void run_attention(Problem& p, Count& count, Faults& faults) {
  Judge judge(p.format->name, p.number, count, faults);
  const auto given = [](std::vector<Named> tensors) {
    std::erase_if(tensors, [](const Named& t) { return !t.tensor->given(); });
    return tensors;
  };
  const std::vector<Named> inputs = given({{"q", &p.q},
                                           {"k", &p.k},
                                           {"v", &p.v},
                                           {"dout", &p.dout},
                                           {"dlse", &p.dlse},
                                           {"bias", &p.bias},
                                           {"sinks", &p.sinks},
                                           {"alibi_slopes", &p.alibi},
                                           {"cu_seqlens_q", &p.rows.begins},
                                           {"cu_seqlens_k", &p.keys.begins},
                                           {"seqused_q", &p.rows.used},
                                           {"seqused_k", &p.keys.used},
                                           {"dropout_state", &p.dropout_state}});
  const std::vector<Named> written = given({{"out", &p.out}, {"lse", &p.lse}});
  const std::vector<Named> gradients = given(
      {{"dq", &p.dq}, {"dk", &p.dk}, {"dv", &p.dv}, {"dbias", &p.dbias}, {"dsinks", &p.dsinks}});
  const auto poison = [](const std::vector<Named>& tensors) {
    for (const Named& t : tensors) t.tensor->poison();
  };
  const auto canaries = [&](const std::vector<Named>& tensors) {
    for (const Named& t : tensors) {
      if (!t.tensor->canaries_hold()) {
        judge.fault(std::string(t.name) + ": bytes beside its elements were written");
      }
    }
  };

  const Copies before = copy(inputs);
  poison(written);
  poison(gradients);
  if (!forward(p, p.options, p.by_plan, true, judge)) return;
  const Copies results = copy(written);
  if (!backward(p, p.options, p.by_plan, judge)) return;
  demand_equal(inputs, before, ": an input was written", judge);
  demand_equal(written, results, ": the backward pass wrote it", judge);
  canaries(written);
  canaries(gradients);
  compare(p, judge);

  if (p.without_lse) {
    p.out.poison();
    if (!forward(p, p.options, p.by_plan, false, judge)) return;
    demand_equal(written, results, ": other bits without lse", judge);
  }
  if (p.again) {
    fa_options other = p.options;
    other.num_threads = p.options.num_threads == 1 ? 3 : 1;
    const Copies first = copy(gradients);
    poison(written);
    poison(gradients);
    if (!forward(p, other, !p.by_plan, true, judge)) return;
    if (!backward(p, other, !p.by_plan, judge)) return;
    demand_equal(written, results, ": other bits with other threads", judge);
    demand_equal(gradients, first, ": other bits with other threads", judge);
  }
}

}  // namespace judge
