#include "check/variations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fa::check {
namespace {

using Bytes = std::vector<std::byte>;

std::vector<Bytes> contents(const Case& c, bool backward) {
  std::vector<Bytes> all;
  for (const Output& output : c.outputs(backward)) all.push_back(output.array->memory().content());
  return all;
}

/// Runs `pass` into fresh outputs, which must come out as they were.
template <typename Function>
void expect_same(const Case& c, bool backward, const std::string& how, Verdict& verdict,
                 const Function& pass) {
  const std::vector<Bytes> before = contents(c, backward);
  c.poison(backward);
  pass();
  const std::vector<Output> outputs = c.outputs(backward);
  const std::vector<Bytes> after = contents(c, backward);
  for (size_t n = 0; n < outputs.size(); ++n) {
    const bool any_order = !c.spec.offer->same_bits_alone && !c.spec.deterministic &&
                           !c.spec.batch_invariant && c.spec.added_as_they_come(outputs[n].name);
    if (before[n] != after[n] && !any_order) {
      verdict.fail(fmt::format("{}: other bits {}", outputs[n].name, how));
    }
  }
}

/// `bytes` bytes on a 64-byte boundary, with canaries around them.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : memory_(bytes + 2 * guard), bytes_(bytes) {
    memory_.claim(guard, bytes);
  }
  void* data() { return memory_.data() + guard; }
  size_t bytes() const { return bytes_; }
  std::span<std::byte> memory() { return memory_.bytes(); }
  bool intact() const { return memory_.intact(); }

 private:
  static constexpr size_t guard = 64;
  Memory memory_;
  size_t bytes_;
};

/// Through a plan that `make` makes of the arguments as they lie in the place.
template <typename Args, typename Make>
void run_plan(const Case& c, Place& place, const Args& args, Verdict& verdict, const Make& make) {
  const Options options = c.options();
  Plan plan;
  place.run(c.memory(), [&](const Place::Here& here) { plan = make(here(args), here(options)); });
  Workspace workspace(plan.workspace_bytes());
  MemoryList memory = c.memory();
  memory.add(workspace.memory());
  place.run(memory, [&](const Place::Here& here) {
    plan.run(here(args), here(options), here(workspace.data()), workspace.bytes(), here.stream());
  });
  if (!workspace.intact()) verdict.fail("written outside of the workspace");
}

/// A view of part of a tensor; strides are those of the whole.
struct Part {
  std::vector<int64_t> shape, strides;
  Tensor whole;
  int64_t offset = 0;

  operator Tensor() const {  // NOLINT(google-explicit-constructor): passed where a Tensor is asked
    Tensor t = whole;
    if (!t.given()) return t;
    t.ndim = static_cast<int32_t>(shape.size());
    t.shape = shape.data();
    t.strides = strides.data();
    t.byte_offset += static_cast<uint64_t>(offset * t.dtype.bits / 8);
    return t;
  }
};

std::vector<int64_t> strides_of(const Tensor& t) {
  if (t.strides != nullptr) return {t.strides, t.strides + t.ndim};
  std::vector<int64_t> strides(static_cast<size_t>(t.ndim), 1);
  for (int32_t d = t.ndim - 1; d > 0; --d) strides[d - 1] = strides[d] * t.shape[d];
  return strides;
}

/// Sequence b of [B, S, H, width] or [T, H, width], `count` rows, as [1, count, H, width].
Part sequence_of(const Tensor& t, const SideSpec& side, int64_t b, int64_t count) {
  Part part{{}, {}, t, 0};
  if (!t.given()) return part;
  const std::vector<int64_t> s = strides_of(t);
  part.offset = side.packed ? side.first(b) * s[0] : b * s[0];
  part.shape = {1, count, t.shape[t.ndim - 2], t.shape[t.ndim - 1]};
  part.strides = {0, s[s.size() - 3], s[s.size() - 2], 1};
  return part;
}

/// Sequence b of [B, ...] as [1, ...].
Part batch_of_one(const Tensor& t, int64_t b) {
  Part part{{}, {}, t, 0};
  if (!t.given()) return part;
  part.shape.assign(t.shape, t.shape + t.ndim);
  part.shape[0] = 1;
  part.strides = strides_of(t);
  part.offset = b * part.strides[0];
  return part;
}

Part all_of(const Tensor& t) { return {{t.shape, t.shape + t.ndim}, strides_of(t), t, 0}; }

/// Sequence b of [B, H, S] or [H, T] as [1, H, count].
Part lse_of(const Tensor& t, const SideSpec& side, int64_t b, int64_t count) {
  Part part{{}, {}, t, 0};
  if (!t.given()) return part;
  const std::vector<int64_t> s = strides_of(t);
  part.offset = side.packed ? side.first(b) : b * s[0];
  part.shape = {1, t.shape[t.ndim - 2], count};
  part.strides = {0, s[s.size() - 2], 1};
  return part;
}

/// Sequence b's part of an option's tensor, or of its gradient.
Part part_of(const Tensor& t, const GivenTensor& given, int64_t b, int64_t rows, int64_t keys) {
  Part part{given.spec.shape, {}, t, 0};
  if (!t.given()) return part;
  part.strides = strides_of(t);
  const std::span<const Dim> dims = given.option->dims_of(given.spec);
  for (size_t d = 0; d < dims.size(); ++d) {
    int64_t& extent = part.shape[d];
    if (dims[d] == Dim::batch) {
      part.offset = extent == 1 ? 0 : b * part.strides[d];
      extent = 1;
    } else if (dims[d] == Dim::rows && extent != 1) {
      extent = rows;
    } else if (dims[d] == Dim::keys) {
      extent = keys;
    }
  }
  return part;
}

/// One sequence of a problem as a problem of its own.
struct Alone {
  Alone(const Case& c, int64_t b);

  void run(Place& place, Verdict& verdict) const;
  /// Bytes of `got` must be those of `part`, or replace them.
  void compare(const char* name, const Part& part, const Array& got, Verdict& verdict) const;
  MemoryList memory() const;

  const Case& whole;
  int64_t b, rows, keys;
  Part q, k, v;
  Part page_table, used;      ///< of keys in pages
  std::vector<Part> tensors;  ///< of options, as whole.tensors
  Array out, lse, dq, dk, dv;
  std::vector<Array> gradients;  ///< of `tensors`
};

Alone::Alone(const Case& c, int64_t sequence)
    : whole(c), b(sequence), rows(c.spec.rows.length(b)), keys(c.spec.keys.length(b)) {
  const Spec& s = c.spec;
  q = sequence_of(c.q.tensor(), s.rows, b, rows);
  if (s.page_size > 0) {
    k = all_of(c.k.tensor());
    v = all_of(c.v.tensor());
    page_table = batch_of_one(c.pages().tensor(), b);
    if (s.keys.seqused) used = batch_of_one(c.seqused_k.tensor(), b);
  } else {
    k = sequence_of(c.k.tensor(), s.keys, b, keys);
    v = sequence_of(c.v.tensor(), s.keys, b, keys);
  }
  for (const GivenTensor& t : c.tensors) {
    tensors.push_back(
        part_of(t.array.tensor(), t, b, rows, s.page_size > 0 ? s.keys.seqlen : keys));
  }
  const auto fresh = [](std::vector<int64_t> shape, DType dtype) {
    const Layout layout = contiguous(shape);
    return Array(std::move(shape), dtype, layout);
  };
  out = fresh({1, rows, s.heads_q, s.dim_v}, s.dtype);
  if (s.lse) lse = fresh({1, s.heads_q, rows}, float32);
  if (!s.backward) return;
  dq = fresh({1, rows, s.heads_q, s.dim}, s.dtype);
  dk = fresh({1, keys, s.heads_k, s.dim}, s.dtype);
  dv = fresh({1, keys, s.heads_k, s.dim_v}, s.dtype);
  for (size_t n = 0; n < tensors.size(); ++n) {
    const TensorSpec& t = c.tensors[n].spec;
    gradients.push_back(t.gradient ? fresh(tensors[n].shape, t.gradient_dtype) : Array());
  }
}

/// Calls f(bytes, count) for the rows of a view, in the order of a contiguous tensor.
void for_each_row(const Tensor& t, const std::function<void(std::byte*, int64_t)>& f) {
  const std::vector<int64_t> strides = strides_of(t);
  int64_t rows = 1;
  for (int32_t d = 0; d < t.ndim - 1; ++d) rows *= t.shape[d];
  const int64_t width = t.shape[t.ndim - 1];
  for (int64_t row = 0; row < rows && width > 0; ++row) {
    int64_t place = 0;
    int64_t rest = row;
    for (int32_t d = t.ndim - 2; d >= 0; --d) {
      place += rest % t.shape[d] * strides[d];
      rest /= t.shape[d];
    }
    f(static_cast<std::byte*>(t.data) + t.byte_offset + place * t.dtype.bits / 8,
      width * t.dtype.bits / 8);
  }
}

/// The bytes of all rows of a view, one after the other.
Bytes bytes_of(const Tensor& t) {
  Bytes all;
  for_each_row(t, [&](const std::byte* p, int64_t count) { all.insert(all.end(), p, p + count); });
  return all;
}

void Alone::compare(const char* name, const Part& part, const Array& got, Verdict& verdict) const {
  if (!got.given()) return;
  const Bytes bytes = bytes_of(got.tensor());
  if (same_bits_alone(whole.spec)) {
    if (bytes_of(part) != bytes) {
      verdict.fail(fmt::format("{}: other bits when sequence {} stands alone", name, b));
    }
    return;
  }
  const std::byte* next = bytes.data();
  for_each_row(part, [&](std::byte* p, int64_t count) {
    std::copy_n(next, count, p);
    next += count;
  });
}

MemoryList Alone::memory() const {
  MemoryList list = whole.memory();
  for (const Array* a : {&out, &lse, &dq, &dk, &dv}) list.add(*a);
  for (const Array& a : gradients) list.add(a);
  return list;
}

void Alone::run(Place& place, Verdict& verdict) const {
  const Spec& s = whole.spec;
  Options o = whole.options();
  o.cu_seqlens_q = o.cu_seqlens_k = o.seqused_q = o.seqused_k = {};
  o.max_seqlen_q = o.max_seqlen_k = 0;
  if (s.page_size > 0) {
    o.page_table = page_table;
    if (s.keys.seqused) o.seqused_k = used;
  }
  for (size_t n = 0; n < tensors.size(); ++n) o.*whole.tensors[n].option->argument = tensors[n];
  o.dropout_state = {};
  o.dropout_seed = s.dropout_seed;
  // The counter holds (sequence * heads + head) XOR the offset's upper half.
  o.dropout_offset = s.dropout_offset ^ static_cast<uint64_t>(b * s.heads_q) << 32;

  const auto expect = [&](const char* name, const Part& part, const Array& got) {
    compare(name, part, got, verdict);
  };
  const auto row_part = [&](const Array& a) { return sequence_of(a.tensor(), s.rows, b, rows); };
  const auto key_part = [&](const Array& a) { return sequence_of(a.tensor(), s.keys, b, keys); };
  const auto lse_part = [&](const Array& a) { return lse_of(a.tensor(), s.rows, b, rows); };

  place.run(memory(), [&](const Place::Here& here) {
    forward(here(ForwardArgs{q, k, v, out.tensor(), lse.tensor()}), here(o), here.stream());
  });
  expect("out", row_part(whole.out), out);
  if (s.lse) expect("lse", lse_part(whole.lse), lse);
  if (!s.backward) return;
  const Part dout = row_part(whole.dout);
  const Part dlse = lse_part(whole.dlse);
  const Part whole_out = row_part(whole.out);
  const Part whole_lse = lse_part(whole.lse);
  BackwardArgs args{dout,      q,           k,           v,           whole_out,
                    whole_lse, dq.tensor(), dk.tensor(), dv.tensor(), dlse};
  for (size_t n = 0; n < gradients.size(); ++n) {
    const OptionTensor& option = *whole.tensors[n].option;
    if (option.gradient) args.*option.gradient->argument = gradients[n].tensor();
  }
  place.run(memory(),
            [&](const Place::Here& here) { backward(here(args), here(o), here.stream()); });
  expect("dq", row_part(whole.dq), dq);
  expect("dk", key_part(whole.dk), dk);
  expect("dv", key_part(whole.dv), dv);
  for (size_t n = 0; n < gradients.size(); ++n) {
    const GivenTensor& t = whole.tensors[n];
    if (!t.spec.gradient || !t.option->is_per_sequence(t.spec, s)) continue;
    expect(t.option->gradient->name, part_of(t.gradient.tensor(), t, b, rows, keys), gradients[n]);
  }
}

/// Both passes with these options, or one of them, into fresh outputs.
void expect_same_calls(const Case& c, Place& place, const Options& options, const std::string& how,
                       Verdict& verdict) {
  expect_same(c, false, how, verdict, [&] {
    place.run(c.memory(), [&](const Place::Here& here) {
      forward(here(c.forward_args()), here(options), here.stream());
    });
  });
  if (!c.spec.backward) return;
  expect_same(c, true, how, verdict, [&] {
    place.run(c.memory(), [&](const Place::Here& here) {
      backward(here(c.backward_args()), here(options), here.stream());
    });
  });
}

}  // namespace

void check_again(const Case& c, Place& place, Verdict& verdict) {
  expect_same_calls(c, place, c.options(), "in a second call", verdict);
}

void check_threads(const Case& c, Place& place, Verdict& verdict) {
  Options options = c.options();
  for (const int32_t threads : {1, 2, 3}) {
    if (threads == c.spec.num_threads) continue;
    options.num_threads = threads;
    expect_same_calls(c, place, options,
                      fmt::format("with {} threads than with {}", threads, c.spec.num_threads),
                      verdict);
  }
}

void check_plan(const Case& c, Place& place, Verdict& verdict) {
  const std::string how = "through a plan";
  expect_same(c, false, how, verdict,
              [&] { run_plan(c, place, c.forward_args(), verdict, plan_forward); });
  if (!c.spec.backward) return;
  expect_same(c, true, how, verdict,
              [&] { run_plan(c, place, c.backward_args(), verdict, plan_backward); });
}

bool can_stand_alone(const Spec& spec) {
  return spec.dropout_p == 0 || std::has_single_bit(static_cast<uint64_t>(spec.heads_q));
}

bool same_bits_alone(const Spec& spec) {
  return spec.offer->same_bits_alone || spec.batch_invariant;
}

void check_alone(const Case& c, Place& place, Verdict& verdict) {
  for (int64_t b = 0; b < c.spec.batch; ++b) Alone(c, b).run(place, verdict);
}

}  // namespace fa::check
