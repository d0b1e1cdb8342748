#include "ablation/cell.hpp"

#include "cuda/runtime/device.hpp"

namespace fa::bench {

namespace {

Call call_of(const Shape& s, const Tensors& t) {
  const auto view = [&](std::byte* data) {
    return View(data, bfloat16, {s.batch(), s.seqlen, s.heads(), s.head_dim}, {}, t.device());
  };
  const View q = view(t.q()), k = view(t.k()), v = view(t.v()), out = view(t.out());
  const View lse(t.lse(), float32, {s.batch(), s.heads(), s.seqlen}, {}, t.device());
  return validate(ForwardArgs{q, k, v, out, lse}, Options{.causal = s.causal}, Data::required);
}

std::vector<ForwardTuning> tunings(const std::vector<Variant>& variants) {
  std::vector<ForwardTuning> all;
  for (const Variant& variant : variants) all.push_back(variant.tuning);
  return all;
}

}  // namespace

double Shape::flops() const {
  const auto square = static_cast<double>(seqlen) * static_cast<double>(seqlen);
  return (causal ? 2 : 4) * square * static_cast<double>(hidden * batch());
}

Cell::Cell(const Shape& shape, const Tensors& tensors)
    : Cell(shape, tensors, call_of(shape, tensors)) {}

Cell::Cell(const Shape& shape, const Tensors& tensors, const Call& call)
    : shape_(shape),
      variants_(bench::variants(call.problem, cuda::limits_of(cuda::device(tensors.device().id)))),
      contest_(call, tensors, tunings(variants_)) {}

}  // namespace fa::bench
