#include "check/option_tensors.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace fa::check {
namespace {

using F = Feature;
using reference::Result;

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

void fill_bias(const Array& bias, const Spec&, const TensorSpec& t, Random& random) {
  bool masked_row = false;  // sometimes a row has no key left
  bias.fill([&](int64_t n) {
    if (n % t.shape.back() == 0) masked_row = t.masks && random.chance(0.1);
    const bool masked = masked_row || (t.masks && random.chance(0.2));
    return masked ? minus_infinity : random.normal();
  });
}

void fill_slopes(const Array& slopes, const Spec&, const TensorSpec&, Random& random) {
  slopes.fill([&](int64_t) {
    const double slope = std::exp2(static_cast<double>(-random.below(9)));
    return random.chance(0.1) ? 0 : random.chance(0.2) ? -slope : slope;
  });
}

void fill_sinks(const Array& sinks, const Spec& spec, const TensorSpec& t, Random& random) {
  sinks.fill([&](int64_t) { return spec.sink_size * random.normal(); });
  if (!t.masks) return;
  sinks.fill([&](int64_t h) { return h == 0 || random.chance(0.5) ? minus_infinity : 1.5; });
}

}  // namespace

std::span<const OptionTensor> option_tensors() {
  static const std::array all{
      OptionTensor{
          .name = "bias",
          .given = F::bias,
          .argument = &Options::bias,
          .dims = {Dim::batch, Dim::heads, Dim::rows, Dim::keys},
          .broadcast = F::bias_broadcast,
          .of_q_dtype = true,
          .masks = F::bias_inf,
          .gradient =
              {{"dbias", F::dbias, &BackwardArgs::dbias, {&Result::dbias, &Result::dbias_abs}}},
          .usual = true,
          .fill = fill_bias},
      OptionTensor{.name = "alibi_slopes",
                   .given = F::alibi,
                   .argument = &Options::alibi_slopes,
                   .dims = {Dim::batch, Dim::heads},
                   .without_batch = true,
                   .fill = fill_slopes},
      OptionTensor{.name = "sinks",
                   .given = F::sinks,
                   .argument = &Options::sinks,
                   .dims = {Dim::heads},
                   .of_q_dtype = true,
                   .masks = F::sink_inf,
                   .gradient = {{"dsinks",
                                 F::dsinks,
                                 &BackwardArgs::dsinks,
                                 {&Result::dsinks, &Result::dsinks_abs}}},
                   .fill = fill_sinks},
  };
  return all;
}

std::vector<int64_t> OptionTensor::full_shape(const Spec& spec) const {
  std::vector<int64_t> shape;
  for (const Dim dim : dims) {
    shape.push_back(dim == Dim::batch   ? spec.batch
                    : dim == Dim::heads ? spec.heads_q
                    : dim == Dim::rows  ? spec.rows.seqlen
                                        : spec.keys.seqlen);
  }
  return shape;
}

std::span<const Dim> OptionTensor::dims_of(const TensorSpec& tensor) const {
  return std::span(dims).last(tensor.shape.size());
}

bool OptionTensor::is_broadcast(const TensorSpec& tensor, const Spec& spec) const {
  return broadcast && tensor.shape != full_shape(spec);
}

bool OptionTensor::is_per_sequence(const TensorSpec& tensor, const Spec& spec) const {
  return dims_of(tensor).front() == Dim::batch && tensor.shape.front() == spec.batch;
}

bool OptionTensor::counts(int64_t n, const TensorSpec& tensor, const Spec& spec) const {
  const std::span<const Dim> of = dims_of(tensor);
  std::array<int64_t, 4> at{};  // by Dim
  bool per_sequence = false;
  for (size_t d = of.size(); d-- > 0; n /= tensor.shape[d]) {
    at[static_cast<size_t>(of[d])] = n % tensor.shape[d];
    per_sequence = per_sequence || (of[d] == Dim::batch && tensor.shape[d] > 1);
  }
  const auto has = [&](Dim dim) { return std::find(of.begin(), of.end(), dim) != of.end(); };
  const auto index = [&](Dim dim) { return at[static_cast<size_t>(dim)]; };
  for (int64_t b = 0; b < spec.batch; ++b) {
    if (per_sequence && b != index(Dim::batch)) continue;
    const bool row = !has(Dim::rows) || index(Dim::rows) < spec.rows.length(b);
    const bool key = !has(Dim::keys) || index(Dim::keys) < spec.keys.length(b);
    if (row && key) return true;
  }
  return false;
}

}  // namespace fa::check
