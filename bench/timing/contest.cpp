#include "timing/contest.hpp"

#include <algorithm>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/memory.hpp"

namespace fa::bench {

namespace {

// All ways round P and O to bfloat16, whose unit is 2^-8, or finer; LSE comes from sums in float32.
constexpr double most_out_difference = 1e-2;
constexpr double most_lse_difference = 1e-4;
// The time of a turn, which has several calls where they are short: launches and events then do not
// count.
constexpr double turn_milliseconds = 10;
constexpr double most_calls = 1000;

}  // namespace

bool Measured::right() const {
  return out_difference <= most_out_difference && lse_difference <= most_lse_difference;
}

double median_of(std::vector<double> numbers) {
  std::ranges::sort(numbers);
  return numbers[numbers.size() / 2];
}

std::vector<std::vector<double>> time_in_turns(const Tensors& tensors, size_t ways,
                                               const std::function<void(size_t way)>& run,
                                               int rounds, std::mt19937_64& random) {
  const cuda::CurrentContext context(tensors.device().id, tensors.stream());
  cuda::Event begin(tensors.device().id), end(tensors.device().id);
  const auto timed = [&](size_t way, int calls) {
    begin.record(tensors.stream());
    for (int n = 0; n < calls; ++n) run(way);
    end.record(tensors.stream());
    return end.milliseconds_since(begin) / calls;
  };
  std::vector<size_t> order;
  std::vector<int> calls;
  for (size_t way = 0; way < ways; ++way) {
    order.push_back(way);
    calls.push_back(
        static_cast<int>(std::clamp(turn_milliseconds / timed(way, 1), 1.0, most_calls)));
  }
  std::vector<std::vector<double>> milliseconds(ways);
  for (int round = 0; round < rounds; ++round) {
    std::ranges::shuffle(order, random);
    for (const size_t way : order) milliseconds[way].push_back(timed(way, calls[way]));
  }
  return milliseconds;
}

Contest::Contest(const Call& call, const Tensors& tensors, std::span<const ForwardTuning> ways)
    : call_(call), tensors_(tensors), measured_(ways.size()) {
  for (const ForwardTuning& way : ways) plans_.push_back(cuda::plan_forward(call.problem, way));
}

std::vector<KernelSpec> Contest::kernels() const {
  std::vector<KernelSpec> specs;
  for (const auto& plan : plans_) {
    for (const Launch& launch : plan->plan().launches) specs.push_back(launch.kernel);
  }
  return specs;
}

void Contest::check() {
  const Problem& p = call_.problem;
  const int64_t rows = p.q.tokens * p.q.heads;
  Tensors::Results first{std::vector<uint16_t>(rows * p.head_dim_v), std::vector<float>(rows)};
  Tensors::Results results = first;
  for (size_t way = 0; way < plans_.size(); ++way) {
    tensors_.poison();
    run(way);
    tensors_.download(results);
    if (way == 0) first = results;  // whose NaN, if there is one, shows as well
    measured_[way].out_difference = tensors_.difference(results.out, first.out);
    measured_[way].lse_difference = Tensors::difference(results.lse, first.lse);
  }
}

void Contest::time(int rounds, std::mt19937_64& random) {
  std::vector<size_t> right;
  for (size_t way = 0; way < plans_.size(); ++way) {
    if (measured_[way].right()) right.push_back(way);
  }
  const auto times =
      time_in_turns(tensors_, right.size(), [&](size_t n) { run(right[n]); }, rounds, random);
  for (size_t n = 0; n < right.size(); ++n) measured_[right[n]].milliseconds = times[n];
}

}  // namespace fa::bench
