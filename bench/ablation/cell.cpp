#include "ablation/cell.hpp"

#include <algorithm>
#include <numeric>

#include "cuda/device.hpp"

namespace fa::bench {

namespace {

// Both ways round P and O to bfloat16, whose unit is 2^-8; LSE comes from sums in float32.
constexpr double most_out_difference = 1e-2;
constexpr double most_lse_difference = 1e-4;

/// A point of a stream, whose time the device tells.
class Event {
 public:
  Event() { cuda::check(cuda::driver().event_create(&event_, 0), "making an event"); }
  ~Event() { cuda::driver().event_destroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream stream) {
    cuda::check(cuda::driver().event_record(event_, static_cast<cuda::CUstream>(stream)),
                "recording an event");
  }
  double milliseconds_since(const Event& begin) const {
    float milliseconds = 0;
    cuda::check(cuda::driver().event_synchronize(event_), "waiting for an event");
    cuda::check(cuda::driver().event_elapsed(&milliseconds, begin.event_, event_),
                "asking for the time between events");
    return milliseconds;
  }

 private:
  cuda::CUevent event_ = nullptr;
};

Call call_of(const Shape& s, const Tensors& t, int device) {
  const Device where{cuda_device, device};
  const auto view = [&](std::byte* data) {
    return View(data, bfloat16, {s.batch(), s.seqlen, s.heads(), s.head_dim}, {}, where);
  };
  const View q = view(t.q()), k = view(t.k()), v = view(t.v()), out = view(t.out());
  const View lse(t.lse(), float32, {s.batch(), s.heads(), s.seqlen}, {}, where);
  return validate(ForwardArgs{q, k, v, out, lse}, Options{.causal = s.causal}, Data::required);
}

}  // namespace

double Shape::flops() const {
  const auto square = static_cast<double>(seqlen) * static_cast<double>(seqlen);
  return (causal ? 2 : 4) * square * static_cast<double>(hidden * batch());
}

bool Found::right() const {
  return out_difference <= most_out_difference && lse_difference <= most_lse_difference;
}

double Found::median() const {
  std::vector<double> sorted = milliseconds;
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}

Cell::Cell(const Shape& shape, const Tensors& tensors, int device)
    : shape_(shape), tensors_(tensors), device_(device), call_(call_of(shape, tensors, device)) {
  for (Variant& variant : variants(call_.problem, cuda::limits_of(cuda::device(device)))) {
    plans_.push_back(cuda::plan(call_.problem, variant.tuning));
    found_.emplace_back().variant = std::move(variant);
  }
}

std::vector<KernelSpec> Cell::kernels() const {
  std::vector<KernelSpec> specs;
  for (const auto& plan : plans_) specs.push_back(plan->plan().forward);
  return specs;
}

void Cell::check() {
  Tensors::Results normal;
  for (size_t n = 0; n < plans_.size(); ++n) {
    tensors_.poison();
    run(*plans_[n]);
    const Tensors::Results results = tensors_.results(shape_.heads());
    if (n == 0) normal = results;  // whose NaN, if there is one, shows as well
    found_[n].out_difference = difference(results.out, normal.out);
    found_[n].lse_difference = difference(results.lse, normal.lse);
  }
}

void Cell::time(int rounds, std::mt19937_64& random) {
  const cuda::CurrentContext context(device_, tensors_.stream());
  Event begin, end;
  std::vector<size_t> order(plans_.size());
  std::iota(order.begin(), order.end(), 0);
  for (int round = 0; round <= rounds; ++round) {
    std::ranges::shuffle(order, random);
    for (const size_t n : order) {
      begin.record(tensors_.stream());
      run(*plans_[n]);
      end.record(tensors_.stream());
      const double milliseconds = end.milliseconds_since(begin);
      if (round > 0) found_[n].milliseconds.push_back(milliseconds);
    }
  }
}

}  // namespace fa::bench
