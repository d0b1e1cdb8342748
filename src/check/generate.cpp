#include "check/generate.hpp"

#include <algorithm>
#include <limits>
#include <ranges>
#include <utility>

#include "check/hash.hpp"
#include "kernels/common/mask.h"

namespace fa::check {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// For each row of the tensor, whether it lies within its sequence's length.
std::vector<bool> counting_rows(const SideSpec& side) {
  std::vector<bool> counts(static_cast<size_t>(side.total()));
  for (int64_t b = 0; b < static_cast<int64_t>(side.extent.size()); ++b) {
    for (int64_t i = 0; i < side.length(b); ++i)
      counts[static_cast<size_t>(side.first(b) + i)] = true;
  }
  return counts;
}

IntArray<int32_t> cu_seqlens(const SideSpec& side) {
  std::vector<int32_t> cu{0};
  for (const int64_t extent : side.extent) cu.push_back(cu.back() + static_cast<int32_t>(extent));
  return IntArray<int32_t>(std::move(cu));
}

IntArray<int32_t> seqused(const SideSpec& side) {
  return IntArray<int32_t>({side.used.begin(), side.used.end()});
}

}  // namespace

Case::Case(const Spec& s)
    : spec(s),
      random_(s.seed ^ 0x7ab1e5, static_cast<uint64_t>(s.index)),
      pages_(s, random_),
      row_counts_(counting_rows(s.rows)),
      key_counts_(s.page_size > 0 ? pages_.counting_rows(s) : counting_rows(s.keys)) {
  place_inputs();
  place_outputs();
  fill_inputs();
  poison_beyond();
}

std::vector<int64_t> Case::shape(const SideSpec& side, int64_t heads, int64_t width) const {
  if (side.packed) return {side.total(), heads, width};
  return {spec.batch, side.seqlen, heads, width};
}

std::vector<int64_t> Case::key_shape(int64_t width) const {
  if (spec.page_size > 0) return {pages_.count, spec.page_size, spec.heads_k, width};
  return shape(spec.keys, spec.heads_k, width);
}

std::vector<int64_t> Case::lse_shape() const {
  if (spec.rows.packed) return {spec.heads_q, spec.rows.total()};
  return {spec.batch, spec.heads_q, spec.rows.seqlen};
}

Array Case::place(std::vector<int64_t> shape, DType dtype, bool unaligned) {
  const Layout layout = random_layout(shape, dtype, kind(unaligned), random_);
  return Array(std::move(shape), dtype, layout);
}

std::vector<Array> Case::place_together(const std::vector<std::vector<int64_t>>& shapes) {
  std::vector<int64_t> whole = shapes[0];
  int64_t& heads = whole[whole.size() - 2];
  for (size_t n = 1; n < shapes.size(); ++n) heads += shapes[n][whole.size() - 2];
  Layout layout =
      random_layout(whole, spec.dtype, {false, spec.unaligned, spec.alignment}, random_);
  layout.null_strides = false;
  const auto memory = std::make_shared<Memory>(layout.size * spec.dtype.bits / 8);
  std::vector<Array> arrays;
  for (const std::vector<int64_t>& shape : shapes) {
    arrays.emplace_back(shape, spec.dtype, layout, memory);
    layout.offset += shape[shape.size() - 2] * shape.back();
  }
  return arrays;
}

Array Case::place_repeated(const std::vector<int64_t>& shape) {
  std::vector<int64_t> one_head = shape;
  one_head[shape.size() - 2] = 1;
  Layout layout =
      random_layout(one_head, spec.dtype, {true, spec.unaligned, spec.alignment}, random_);
  layout.strides[shape.size() - 2] = 0;
  return Array(shape, spec.dtype, layout);
}

void Case::place_qkv(Array& a, Array& b, Array& c) {
  const std::vector<int64_t> qs = shape(spec.rows, spec.heads_q, spec.dim);
  const std::vector<int64_t> ks = key_shape(spec.dim);
  const std::vector<int64_t> vs = key_shape(spec.dim_v);
  const bool same_rows = spec.page_size == 0 && spec.rows.packed == spec.keys.packed &&
                         spec.rows.total() == spec.keys.total();
  const bool together = spec.strided && spec.dim == spec.dim_v && random_.chance(0.4);
  if (together && same_rows) {
    const std::vector<Array> all = place_together({qs, ks, vs});
    a = all[0];
    b = all[1];
    c = all[2];
    return;
  }
  a = place(qs, spec.dtype, spec.unaligned);
  if (together) {
    const std::vector<Array> both = place_together({ks, vs});
    b = both[0];
    c = both[1];
  } else {
    b = place(ks, spec.dtype, spec.unaligned && random_.chance(0.5));
    c = place(vs, spec.dtype, spec.unaligned && random_.chance(0.5));
  }
}

void Case::place_inputs() {
  place_qkv(q, k, v);
  if (spec.strided && random_.chance(0.1)) k = place_repeated(k.shape());
  if (spec.strided && random_.chance(0.1)) v = place_repeated(v.shape());
  if (spec.backward)
    dout = place(shape(spec.rows, spec.heads_q, spec.dim_v), spec.dtype, spec.unaligned);
  if (spec.dlse) dlse = place(lse_shape(), float32, spec.unaligned);
  for (const OptionTensor& o : option_tensors()) {
    const TensorSpec* t = spec.tensor(o.given);
    if (t != nullptr) {
      tensors.push_back({&o, *t, place(t->shape, t->dtype, spec.unaligned), {}});
    }
  }
  if (spec.rows.packed) cu_seqlens_q = cu_seqlens(spec.rows);
  if (spec.keys.packed) cu_seqlens_k = cu_seqlens(spec.keys);
  if (spec.rows.seqused) seqused_q = seqused(spec.rows);
  if (spec.keys.seqused) seqused_k = seqused(spec.keys);
  dropout_state = IntArray<int64_t>(
      {static_cast<int64_t>(spec.dropout_seed), static_cast<int64_t>(spec.dropout_offset)});
}

void Case::place_outputs() {
  out = place(shape(spec.rows, spec.heads_q, spec.dim_v), spec.dtype, spec.unaligned);
  if (spec.lse) lse = place(lse_shape(), float32, spec.unaligned);
  if (!spec.backward) return;
  place_qkv(dq, dk, dv);
  for (GivenTensor& t : tensors) {
    if (t.spec.gradient) {
      t.gradient = place(t.spec.shape, t.spec.gradient_dtype, spec.unaligned);
    }
  }
}

void Case::fill_inputs() {
  const auto fill = [this](const Array& a, double size) {
    if (a.given()) a.fill([this, size](int64_t) { return size * random_.normal(); });
  };
  const auto fill_values = [&](const Array& a, double size) {
    if (!spec.same_values) return fill(a, size);
    const double value = size * random_.normal();
    if (a.given()) a.fill([value](int64_t) { return value; });
  };
  fill(q, spec.score_size);
  fill(k, spec.key_size);
  fill_values(v, spec.value_size);
  fill_values(dout, spec.dout_size);
  fill(dlse, spec.dout_size);
  for (const GivenTensor& t : std::views::reverse(tensors)) {
    t.option->fill(t.array, spec, t.spec, random_);
  }
}

int64_t Case::lse_row(int64_t n) const {
  const int64_t rows = lse_shape().back();
  if (spec.rows.packed) return n % rows;
  return n / (rows * spec.heads_q) * rows + n % rows;
}

void Case::poison_beyond() {
  const auto poison = [](const Array& a, const std::vector<bool>& counts) {
    if (!a.given()) return;
    const int64_t per_row = a.shape()[a.shape().size() - 2] * a.shape().back();
    a.poison_where([&counts, per_row](int64_t n) { return !counts[n / per_row]; });
  };
  poison(q, row_counts_);
  poison(dout, row_counts_);
  poison(k, key_counts_);
  poison(v, key_counts_);
  if (dlse.given()) dlse.poison_where([this](int64_t n) { return !row_counts_[lse_row(n)]; });
  for (const GivenTensor& t : tensors) {
    t.array.poison_where([&](int64_t n) { return !t.option->counts(n, t.spec, spec); });
  }
}

/// For each row, whether the mask leaves it no key, with or without sinks.
std::vector<bool> Case::keyless_rows() const {
  std::vector<bool> keyless(static_cast<size_t>(spec.rows.total()));
  for (int64_t b = 0; b < spec.batch; ++b) {
    const int64_t rows = spec.rows.length(b), keys = spec.keys.length(b);
    const int64_t left = std::min(spec.window_left, rows + keys);  // may be the largest of all
    const int64_t right = spec.causal ? 0 : std::min(spec.window_right, rows + keys);
    for (int64_t i = 0; i < rows; ++i) {
      const auto seen = mask::key_range(i, rows, keys, left, right);
      keyless[static_cast<size_t>(spec.rows.first(b) + i)] = seen.begin >= seen.end;
    }
  }
  return keyless;
}

void Case::poison_empty_rows(const std::vector<double>& exact_lse) const {
  if (!dout.given()) return;
  const std::vector<bool> keyless = keyless_rows();
  std::vector<bool> empty(static_cast<size_t>(dout.numel() / spec.dim_v));
  for (int64_t n = 0; n < static_cast<int64_t>(exact_lse.size()); ++n) {
    const int64_t rows = lse_shape().back();
    const int64_t head = n / rows % spec.heads_q;
    empty[lse_row(n) * spec.heads_q + head] = exact_lse[n] == -infinity || keyless[lse_row(n)];
  }
  dout.poison_where([&](int64_t n) { return empty[n / spec.dim_v]; });
  if (dlse.given()) dlse.poison_where([&](int64_t n) { return exact_lse[n] == -infinity; });
}

void Case::poison_results_beyond() const {
  const int64_t per_row = spec.heads_q * spec.dim_v;
  out.poison_where([&](int64_t n) { return !row_counts_[n / per_row]; });
  lse.poison_where([&](int64_t n) { return !row_counts_[lse_row(n)]; });
}

ForwardArgs Case::forward_args() const {
  return {q.tensor(), k.tensor(), v.tensor(), out.tensor(), lse.tensor()};
}

BackwardArgs Case::backward_args() const {
  BackwardArgs args{dout.tensor(), q.tensor(),  k.tensor(),  v.tensor(),  out.tensor(),
                    lse.tensor(),  dq.tensor(), dk.tensor(), dv.tensor(), dlse.tensor()};
  for (const GivenTensor& t : tensors) {
    if (t.option->gradient) args.*t.option->gradient->argument = t.gradient.tensor();
  }
  return args;
}

Options Case::options() const {
  Options o;
  o.scale = spec.scale;
  o.causal = spec.causal;
  o.window_left = spec.window_left;
  o.window_right = spec.window_right;
  o.softcap = spec.softcap;
  o.dropout_p = spec.dropout_p;
  if (spec.dropout_state) {
    o.dropout_state = dropout_state.tensor();
  } else {
    o.dropout_seed = spec.dropout_seed;
    o.dropout_offset = spec.dropout_offset;
  }
  for (const GivenTensor& t : tensors) o.*t.option->argument = t.array.tensor();
  if (spec.rows.packed) o.cu_seqlens_q = cu_seqlens_q.tensor();
  if (spec.keys.packed) o.cu_seqlens_k = cu_seqlens_k.tensor();
  o.max_seqlen_q = spec.rows.max_seqlen;
  o.max_seqlen_k = spec.keys.max_seqlen;
  if (spec.rows.seqused) o.seqused_q = seqused_q.tensor();
  if (spec.keys.seqused) o.seqused_k = seqused_k.tensor();
  if (spec.page_size > 0) o.page_table = pages_.tensor();
  o.deterministic = spec.deterministic;
  o.batch_invariant = spec.batch_invariant;
  o.num_threads = spec.num_threads;
  o.family = spec.family;
  return o;
}

std::vector<Output> Case::outputs(bool backward) const {
  std::vector<Output> all;
  const auto add = [&all](const char* name, const Array& array, const Exact& exact) {
    if (array.given()) all.push_back({name, &array, exact});
  };
  using reference::Result;
  if (backward) {
    add("dq", dq, {&Result::dq, &Result::dq_abs});
    add("dk", dk, {&Result::dk, &Result::dk_abs});
    add("dv", dv, {&Result::dv, &Result::dv_abs});
    for (const GivenTensor& t : tensors) {
      if (t.option->gradient) add(t.option->gradient->name, t.gradient, t.option->gradient->exact);
    }
  } else {
    add("out", out, {&Result::out, &Result::out_abs});
    add("lse", lse, {&Result::lse, &Result::lse_abs});
  }
  return all;
}

void Case::poison(bool backward) const {
  for (const Output& output : outputs(backward)) output.array->memory().poison();
}

uint64_t Case::input_hash() const {
  Hash hash;
  const auto add = [&hash](const Array& a) {
    if (a.given()) hash.add(a.memory().bytes());
  };
  for (const Array* a : {&q, &k, &v, &dout, &dlse}) add(*a);
  for (const GivenTensor& t : tensors) add(t.array);
  for (const auto* a : {&cu_seqlens_q, &cu_seqlens_k, &seqused_q, &seqused_k}) {
    hash.add(a->memory());
  }
  hash.add(dropout_state.memory());
  hash.add(pages_.table.memory());
  return hash.value();
}

MemoryList Case::memory() const {
  MemoryList list;
  for (const Array* a : {&q, &k, &v, &out, &lse, &dout, &dlse, &dq, &dk, &dv}) list.add(*a);
  for (const GivenTensor& t : tensors) {
    list.add(t.array);
    list.add(t.gradient);
  }
  for (const auto* a : {&cu_seqlens_q, &cu_seqlens_k, &seqused_q, &seqused_k}) {
    list.add(a->memory());
  }
  list.add(dropout_state.memory());
  list.add(pages_.table.memory());
  return list;
}

}  // namespace fa::check
