#include "ablation/backward.hpp"

#include <algorithm>
#include <utility>

#include "cuda/launch/passes.hpp"
#include "cuda/runtime/device.hpp"
#include "cuda/runtime/parallel.hpp"

namespace fa::bench {

namespace {

constexpr double most_difference = 2e-2;  // of gradients in bfloat16

/// The tensors of a backward pass beside those of a forward pass.
struct Gradients {
  std::byte *dout, *dq, *dk, *dv;
};

struct Views {
  View q, k, v, out, dout, dq, dk, dv, lse;
};
Views views(const BackwardShape& s, const Tensors& t, const Gradients& g) {
  const auto view = [&](std::byte* data, int64_t heads) {
    return View(data, bfloat16, {s.batch, s.seqlen, heads, s.head_dim}, {}, t.device());
  };
  return {view(t.q(), s.heads_q),
          view(t.k(), s.heads_k),
          view(t.v(), s.heads_k),
          view(t.out(), s.heads_q),
          view(g.dout, s.heads_q),
          view(g.dq, s.heads_q),
          view(g.dk, s.heads_k),
          view(g.dv, s.heads_k),
          View(t.lse(), float32, {s.batch, s.heads_q, s.seqlen}, {}, t.device())};
}

std::vector<uint16_t> numbers(const Tensors& tensors, const std::byte* from, int64_t count) {
  std::vector<uint16_t> host(static_cast<size_t>(count));
  tensors.download(reinterpret_cast<std::byte*>(host.data()), from, 2 * host.size());
  return host;
}

BackwardCell measure(const BackwardShape& s, Tensors& tensors, const Gradients& g, int rounds,
                     std::mt19937_64& random) {
  const Views at = views(s, tensors, g);
  const Options options{.causal = s.causal};
  forward(ForwardArgs{at.q, at.k, at.v, at.out, at.lse}, options, tensors.stream());
  const Call call = validate(
      BackwardArgs{at.dout, at.q, at.k, at.v, at.out, at.lse, at.dq, at.dk, at.dv, {}, {}, {}},
      options, Data::required);
  const GpuLimits gpu = cuda::limits_of(cuda::device(tensors.device().id));
  BackwardCell cell{s, backward_variants(call.problem, gpu), {}, {}};
  std::vector<std::shared_ptr<const cuda::PlannedBackward>> plans;
  for (const BackwardVariant& variant : cell.variants) {
    plans.push_back(cuda::plan_backward(call.problem, variant.tuning));
  }
  cuda::parallel_for(static_cast<int64_t>(plans.size()), 0,
                     [&](int64_t way) { plans[way]->prepare(); });
  const auto run = [&](size_t way) { plans[way]->run(call, tensors.stream()); };
  const int64_t rows = s.batch * s.seqlen * s.head_dim;
  const std::pair<std::byte*, int64_t> outputs[] = {
      {g.dq, rows * s.heads_q}, {g.dk, rows * s.heads_k}, {g.dv, rows * s.heads_k}};
  std::vector<std::vector<uint16_t>> first;
  for (size_t way = 0; way < plans.size(); ++way) {
    for (const auto& [output, count] : outputs) tensors.poison(output, 2 * count);
    run(way);
    double largest = 0;
    for (size_t n = 0; n < std::size(outputs); ++n) {
      const std::vector<uint16_t> found = numbers(tensors, outputs[n].first, outputs[n].second);
      if (way == 0) first.push_back(found);
      const double difference = tensors.difference(found, first[n]);
      if (!(difference <= largest)) largest = difference;  // NaN, too
    }
    cell.differences.push_back(largest);
  }
  cell.milliseconds = time_in_turns(tensors, plans.size(), run, rounds, random);
  return cell;
}

}  // namespace

double BackwardShape::flops() const {
  const auto square = static_cast<double>(seqlen) * static_cast<double>(seqlen);
  return (causal ? 5 : 10) * square * static_cast<double>(head_dim * heads_q * batch);
}

bool BackwardCell::right(size_t variant) const { return differences[variant] <= most_difference; }

double BackwardCell::median(size_t variant) const { return median_of(milliseconds[variant]); }

std::vector<BackwardCell> run_backward(Tensors& tensors, int rounds, std::mt19937_64& random) {
  constexpr int64_t bytes = 2 * 16384 * 2048;
  Gradients g{};
  for (std::byte** tensor : {&g.dout, &g.dq, &g.dk, &g.dv}) {
    *tensor = tensors.add(std::vector<std::byte>(bytes));
  }
  tensors.fill(g.dout, bytes / 2, 4);
  std::vector<BackwardCell> cells;
  for (const bool causal : {false, true}) {
    for (const int64_t head_dim : {64, 128, 256}) {
      const int64_t heads = 2048 / head_dim;
      cells.push_back(
          measure({head_dim, 4096, 4, heads, heads, causal}, tensors, g, rounds, random));
    }
    cells.push_back(measure({128, 16384, 1, 16, 2, causal}, tensors, g, rounds, random));
  }
  return cells;
}

}  // namespace fa::bench
