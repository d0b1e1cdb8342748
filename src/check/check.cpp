#include "check/check.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check/features.hpp"
#include "check/generate.hpp"
#include "check/hash.hpp"
#include "check/problems.hpp"
#include "check/refusals.hpp"
#include "check/variations.hpp"
#include "check/verdict.hpp"
#include "reference/number.hpp"
#include "reference/reference.hpp"

namespace fa::check {
namespace {

/// Counts of the further checks.
struct Extras {
  int64_t again = 0;
  int64_t threads = 0;
  int64_t plans = 0;
  int64_t alone = 0;
  int64_t relative = 0;

  void add(const Extras& other) {
    again += other.again;
    threads += other.threads;
    plans += other.plans;
    alone += other.alone;
    relative += other.relative;
  }
  std::string text() const {
    std::vector<std::string> ways;
    for (const auto& [count, way] :
         {std::pair(again, "in the same way"), std::pair(threads, "with other numbers of threads"),
          std::pair(plans, "through a plan"), std::pair(alone, "one sequence at a time")}) {
      if (count > 0) ways.push_back(fmt::format("{} {}", count, way));
    }
    std::vector<std::string> lines;
    if (!ways.empty()) {
      lines.push_back(fmt::format("problems computed a second time, and the results compared: {}",
                                  fmt::join(ways, ", ")));
    }
    if (relative > 0) {
      lines.push_back(fmt::format(
          "tensors of normal random numbers, whose relative error has a limit too: {}", relative));
    }
    return fmt::format("{}", fmt::join(lines, "\n"));
  }
};

/// One problem, from its tensors to its verdict.
class Trial {
 public:
  Trial(const Spec& spec, Place& place, Verdict& verdict, Extras& extras)
      : c_(spec),
        place_(place),
        verdict_(verdict),
        extras_(extras),
        output_hash_(static_cast<uint64_t>(spec.index)) {}

  void run();
  /// The hash of the outputs of both passes.
  uint64_t output_hash() const { return output_hash_.value(); }

 private:
  void compute_reference();
  void run_forward();
  void run_backward();
  void run_variations();
  void run_alone();
  void compare(const Output& output, const reference::Result& exact,
               const reference::Result& plain);
  /// Hashes the bits of the outputs of a pass, and fails where the pass wrote outside of them.
  void finish_pass(bool backward);

  Case c_;
  Place& place_;
  Verdict& verdict_;
  Extras& extras_;
  Hash output_hash_;
  reference::Result exact_, plain_;
};

void Trial::compute_reference() {
  using reference::Rounding;
  const Options options = c_.options();
  for (const Rounding rounding : {Rounding::exact, Rounding::plain}) {
    reference::Result& r = rounding == Rounding::exact ? exact_ : plain_;
    r = c_.spec.backward ? reference::backward(c_.backward_args(), options, rounding)
                         : reference::forward(c_.forward_args(), options, rounding);
  }
}

/// Standard-normal inputs, nothing that makes gradients vanish, at least 64 keys for every row.
bool is_standard(const Spec& s) {
  if (s.score_size != 1 || s.key_size != 1 || s.value_size != 1 || s.dout_size != 1) return false;
  if (s.same_values) return false;
  if (s.scale || s.softcap > 0 || s.dropout_p > 0.5) return false;
  if (s.window_left >= 0 || s.window_right >= 0) return false;
  for (const OptionTensor& o : option_tensors()) {
    const TensorSpec* t = s.tensor(o.given);
    if (t != nullptr && (!o.usual || t->masks)) return false;
  }
  int64_t scores = 0;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t rows = s.rows.length(b), keys = s.keys.length(b);
    scores += rows * keys;
    if (rows > 0 && keys - (s.causal ? rows : 0) < 64) return false;
  }
  return scores > 0;
}

void Trial::compare(const Output& output, const reference::Result& exact,
                    const reference::Result& plain) {
  const std::string name = output.name;
  const std::vector<double> values = output.array->values();
  const std::vector<double>& truth = exact.*output.exact.values;
  const std::vector<double>& rounded = plain.*output.exact.values;
  const std::vector<double>& sizes = exact.*output.exact.sizes;
  if (values.size() != truth.size()) {
    return verdict_.fail(
        fmt::format("{}: {} values, expected {}", name, values.size(), truth.size()));
  }
  const bool is_lse = name == "lse";
  TensorVerdict tensor(name, output.array->dtype(), is_lse ? float32 : c_.spec.dtype);
  const double capped_error =
      is_lse && c_.spec.dtype == bfloat16 ? c_.spec.offer->capped_error * c_.spec.softcap : 0;
  const double more = capped_error / (4 * reference::epsilon(float32));
  for (size_t i = 0; i < values.size(); ++i) {
    tensor.add({values[i], truth[i], rounded[i], sizes[i] + more});
  }
  verdict_.add(tensor);
  if (is_standard(c_.spec) && !is_lse) {
    ++extras_.relative;
    const double limit = relative_limit(c_.spec.dtype);
    if (!(tensor.error() <= limit)) {
      verdict_.fail(
          fmt::format("{}: relative error {:.3g}, limit {:.3g}", name, tensor.error(), limit));
    }
  }
}

void Trial::finish_pass(bool backward) {
  for (const Output& output : c_.outputs(backward)) {
    output_hash_.add(output.array->memory().bytes());
    if (!output.array->memory().intact()) {
      verdict_.fail(fmt::format("{}: written outside of the tensor", output.name));
    }
  }
}

void Trial::run_forward() {
  place_.run(c_.memory(), [&](const Place::Here& here) {
    forward(here(c_.forward_args()), here(c_.options()), here.stream());
  });
  for (const Output& output : c_.outputs(false)) compare(output, exact_, plain_);
  finish_pass(false);
}

void Trial::run_backward() {
  const std::vector<std::byte> out = c_.out.memory().content();
  const std::vector<std::byte> lse = c_.lse.memory().content();
  c_.poison_results_beyond();
  place_.run(c_.memory(), [&](const Place::Here& here) {
    backward(here(c_.backward_args()), here(c_.options()), here.stream());
  });
  for (const Output& output : c_.outputs(true)) compare(output, exact_, plain_);
  finish_pass(true);
  c_.out.memory().restore(out);
  c_.lse.memory().restore(lse);
}

void Trial::run_variations() {
  Random random(~c_.spec.seed, static_cast<uint64_t>(c_.spec.index));
  // The host tries other numbers of threads instead, which is the same call again as well.
  if (random.chance(0.15)) {
    const bool threads = c_.spec.offer->features[bit(Feature::threads)];
    ++(threads ? extras_.threads : extras_.again);
    threads ? check_threads(c_, place_, verdict_) : check_again(c_, place_, verdict_);
  }
  if (random.chance(0.2)) {
    ++extras_.plans;
    check_plan(c_, place_, verdict_);
  }
  if (random.chance(0.3) && can_stand_alone(c_.spec)) run_alone();
}

void Trial::run_alone() {
  ++extras_.alone;
  check_alone(c_, place_, verdict_);
  if (same_bits_alone(c_.spec)) return;
  for (const bool backward : {false, true}) {
    for (const Output& output : c_.outputs(backward)) {
      // An output that is summed over the batch is still the whole call's.
      compare(output, exact_, plain_);
    }
  }
}

void Trial::run() {
  try {
    compute_reference();
    c_.poison_empty_rows(exact_.lse);
    const uint64_t inputs = c_.input_hash();
    run_forward();
    if (c_.spec.backward) run_backward();
    run_variations();
    if (c_.input_hash() != inputs) verdict_.fail("an input was written to");
  } catch (const std::exception& error) {
    verdict_.fail(fmt::format("threw: {}", error.what()));
  }
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Hands out indices to threads and gathers what they find.
class Runner {
 public:
  explicit Runner(const CheckConfig& config)
      : config_(config),
        problems_(config.seed, *config.offer, config.configurations),
        pairs_(config.offer->features) {
    const int threads = config.threads > 0
                            ? config.threads
                            : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int t = 0; t < threads; ++t) {
      places_.push_back(config.accelerator == nullptr
                            ? std::make_unique<Place>()
                            : std::make_unique<Place>(*config.accelerator, config.allocation));
    }
  }

  Report run() {
    const auto begin = std::chrono::steady_clock::now();
    if (config_.accelerator != nullptr) {
      for_each(std::min(problems_.configurations(), config_.count),
               [this](int64_t index, Place& place) { prepare(index, place); });
      report_.prepare_seconds = seconds_since(begin);
    }
    for_each(config_.count, [this](int64_t index, Place& place) { check(index, place); });
    report_.seconds = seconds_since(begin) - report_.prepare_seconds;
    finish();
    return std::move(report_);
  }

 private:
  /// Calls f(index, place) for `count` indices, from one thread for each place.
  void for_each(int64_t count, const std::function<void(int64_t, Place&)>& f);
  void prepare(int64_t index, Place& place);
  void check(int64_t index, Place& place);
  void gather(const Spec& spec, const Verdict& verdict, const Extras& extras, uint64_t output_hash);
  void finish();

  const CheckConfig& config_;
  Problems problems_;
  std::vector<std::unique_ptr<Place>> places_;
  std::mutex mutex_;
  std::atomic<bool> enough_{false};  ///< failures
  Report report_;
  PairTable pairs_;
  Extras extras_;
};

void Runner::for_each(int64_t count, const std::function<void(int64_t, Place&)>& f) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> pool;
  for (const std::unique_ptr<Place>& place : places_) {
    pool.emplace_back([&] {
      for (int64_t n = next++; n < count && !enough_; n = next++) f(config_.first + n, *place);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

void Runner::prepare(int64_t index, Place& place) {
  const Spec spec = problems_.draw(index);
  try {
    const Case c(spec);
    place.run(c.memory(), [&](const Place::Here& here) {
      plan_forward(here(c.forward_args()), here(c.options())).prepare();
      if (spec.backward) plan_backward(here(c.backward_args()), here(c.options())).prepare();
    });
  } catch (const std::exception& error) {
    const std::scoped_lock lock(mutex_);
    report_.failures.push_back({index, spec.text(), fmt::format("prepare: {}\n", error.what())});
    enough_ = static_cast<int64_t>(report_.failures.size()) >= config_.most_failures;
  }
}

void Runner::check(int64_t index, Place& place) {
  const Spec spec = problems_.draw(index);
  Verdict verdict;
  Extras extras;
  Trial trial(spec, place, verdict, extras);
  trial.run();
  gather(spec, verdict, extras, trial.output_hash());
}

void Runner::gather(const Spec& spec, const Verdict& verdict, const Extras& extras,
                    uint64_t output_hash) {
  const std::scoped_lock lock(mutex_);
  ++report_.problems;
  report_.output_hash += output_hash;
  pairs_.add(spec.features());
  extras_.add(extras);
  const bool first = report_.worst_index < 0 || spec.index < report_.worst_index;
  if (verdict.worst_ratio() > report_.worst_ratio ||
      (verdict.worst_ratio() == report_.worst_ratio && first)) {
    report_.worst_ratio = verdict.worst_ratio();
    report_.worst_index = spec.index;
    report_.worst_problem = spec.text();
    report_.worst_tensor = verdict.worst_tensor();
  }
  if (!verdict.failures().empty()) {
    std::string what;
    for (const std::string& failure : verdict.failures()) what += failure + "\n";
    report_.failures.push_back({spec.index, spec.text(), what});
    enough_ = static_cast<int64_t>(report_.failures.size()) >= config_.most_failures;
  }
  if (config_.progress) config_.progress(report_.problems);
}

void Runner::finish() {
  std::sort(report_.failures.begin(), report_.failures.end(),
            [](const Failure& a, const Failure& b) { return a.index < b.index; });
  report_.wrongly_accepted = wrongly_accepted(config_.seed, *config_.offer, *places_.front());
  std::vector<std::string>& never = report_.never_asked;
  for (const Pair& pair : problems_.never_asked()) never.push_back(text(pair));
  if (report_.problems >= full_run) {
    report_.missed = pairs_.missed();
    std::erase_if(report_.missed, [&](const std::string& pair) {
      return std::find(never.begin(), never.end(), pair) != never.end();
    });
  }
  report_.pair_table = pairs_.text();
  report_.extras = extras_.text();
}

}  // namespace

Report run(const CheckConfig& config) { return Runner(config).run(); }

Verdict judge(const Spec& spec, Place& place) {
  Verdict verdict;
  Extras extras;
  Trial(spec, place, verdict, extras).run();
  return verdict;
}

std::string describe(const CheckConfig& config, int64_t index) {
  return Problems(config.seed, *config.offer, config.configurations).draw(index).text();
}

}  // namespace fa::check
