#include "problem.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "spoil.hpp"

namespace fa::fuzz {
namespace {

constexpr fa_dtype float32 FA_FLOAT32;
constexpr fa_dtype int32 FA_INT32;
constexpr fa_dtype int64 FA_INT64;

class Drawer {
 public:
  Drawer(FuzzedDataProvider& data, bool only_planned) : data_(data), only_planned_(only_planned) {}

  Problem draw() {
    constexpr fa_dtype dtypes[] = {FA_FLOAT32, FA_FLOAT16, FA_BFLOAT16};
    dtype_ = data_.PickValueInArray(dtypes);
    sizes();
    rows_of(q, query_, heads_q_, dim_);
    rows_of(k, key_, heads_k_, dim_);
    rows_of(v, key_, heads_k_, dim_v_);
    rows_of(out, query_, heads_q_, dim_v_);
    rows_of(dout, query_, heads_q_, dim_v_);
    rows_of(dq, query_, heads_q_, dim_);
    rows_of(dk, key_, heads_k_, dim_);
    rows_of(dv, key_, heads_k_, dim_v_);
    add(lse, float32, lse_shape());
    if (chance()) add(dlse, float32, lse_shape());
    numbers();
    extras();
    return std::move(problem_);
  }

 private:
  /// The queries or the keys.
  struct Side {
    bool packed = false;
    int64_t extent = 0;  ///< of each sequence, or of all together when packed
    std::vector<int32_t> lengths;
  };

  bool chance() { return data_.ConsumeBool(); }
  int64_t number(int64_t low, int64_t high) { return data_.ConsumeIntegralInRange(low, high); }
  /// A plan takes no time: it may be of anything.
  int64_t extent(int64_t low, int64_t high) {
    if (only_planned_ && chance()) return number(0, int64_t{1} << data_.PickValueInArray({16, 33}));
    return number(low, high);
  }

  void sizes() {
    batch_ = extent(0, 3);
    heads_k_ = extent(1, 2);
    const int64_t group = extent(1, 3);
    if (__builtin_mul_overflow(heads_k_, group, &heads_q_)) heads_q_ = group;
    dim_ = 8 * number(1, 8);
    dim_v_ = 8 * number(1, 8);
    switch (number(0, 31)) {
      case 0:
        dim_ = 576;
        dim_v_ = 512;
        break;
      case 1:
        dim_ = 8 * number(1, 64);
        dim_v_ = 8 * number(1, 64);
        break;
      default:
        break;
    }
    side(query_, cu_seqlens_q, seqused_q, problem_.options.max_seqlen_q);
    side(key_, cu_seqlens_k, seqused_k, problem_.options.max_seqlen_k);
  }

  void side(Side& side, Name cu_seqlens, Name seqused, int64_t& max_seqlen) {
    // Now and then more than a tile of rows, and keys enough to be cut in chunks.
    const int64_t most = number(0, 7) > 0 ? 20 : (&side == &key_ && chance() ? 1100 : 200);
    side.packed = chance();
    if (only_planned_ && side.packed) {
      side.extent = extent(0, most);
      max_seqlen = extent(0, most);
    } else if (side.packed) {
      pack(side, most, cu_seqlens, max_seqlen);
    } else {
      side.extent = extent(0, most);
      side.lengths.assign(static_cast<size_t>(only_planned_ ? 0 : batch_),
                          static_cast<int32_t>(side.extent));
    }
    if (only_planned_ && side.packed) {
      int64_t count = batch_;
      add(cu_seqlens, int32, {++count});
    }
    if (!chance()) return;
    add(seqused, int32, {batch_});
    for (const int32_t length : side.lengths) {
      problem_.operands[seqused]->numbers.push_back(static_cast<int32_t>(number(0, length)));
    }
  }

  void pack(Side& side, int64_t most, Name cu_seqlens, int64_t& max_seqlen) {
    add(cu_seqlens, int32, {batch_ + 1});
    std::vector<int32_t>& begins = problem_.operands[cu_seqlens]->numbers;
    begins.push_back(0);
    for (int64_t b = 0; b < batch_; ++b) {
      side.lengths.push_back(static_cast<int32_t>(number(0, most)));
      begins.push_back(begins.back() + side.lengths.back());
      max_seqlen = std::max<int64_t>(max_seqlen, side.lengths.back());
    }
    side.extent = begins.back() + number(0, 2);  // rows of no sequence
  }

  Operand& add(Name name, fa_dtype dtype, std::vector<int64_t> shape) {
    Operand& operand = problem_.operands[name].emplace(dtype, std::move(shape));
    operand.without_data = only_planned_;
    return operand;
  }

  void rows_of(Name name, const Side& side, int64_t heads, int64_t width) {
    std::vector<int64_t> shape{side.extent, heads, width};
    if (!side.packed) shape.insert(shape.begin(), batch_);
    Operand& operand = add(name, dtype_, std::move(shape));
    if (chance()) stride(operand);
    operand.shift = static_cast<size_t>(dtype_.bits / 8 * number(0, 4));
    operand.byte_offset = static_cast<uint64_t>(number(0, 3) == 0 ? number(0, 1000) : 0);
  }

  /// Any order of the dimensions in memory, with gaps, and backwards; the last one dense.
  void stride(Operand& operand) {
    const size_t dims = operand.shape.size();
    std::vector<size_t> order(dims - 1);
    for (size_t d = 0; d + 1 < dims; ++d) order[d] = d;
    for (size_t d = order.size(); d > 1; --d) {
      std::swap(order[d - 1], order[static_cast<size_t>(number(0, static_cast<int64_t>(d) - 1))]);
    }
    operand.strides.assign(dims, 1);
    int64_t span = operand.shape.back();
    for (const size_t d : order) {
      span += number(0, 3);
      operand.strides[d] = number(0, 3) > 0 ? span : -span;
      if (__builtin_mul_overflow(span, std::max<int64_t>(1, operand.shape[d]), &span)) span = 1;
    }
  }

  std::vector<int64_t> lse_shape() const {
    if (query_.packed) return {heads_q_, query_.extent};
    return {batch_, heads_q_, query_.extent};
  }

  void numbers() {
    fa_options& o = problem_.options;
    o.has_scale = static_cast<int32_t>(chance());
    o.scale = data_.ConsumeFloatingPointInRange(-2.0, 2.0);
    o.causal = static_cast<int32_t>(chance());
    o.window_left = number(-1, 30);
    o.window_right = number(-1, 30);
    if (chance()) o.softcap = data_.ConsumeFloatingPointInRange(0.1, 50.0);
    if (chance()) o.dropout_p = data_.ConsumeFloatingPointInRange(0.0, 0.9);
    o.dropout_seed = data_.ConsumeIntegral<uint64_t>();
    o.dropout_offset = data_.ConsumeIntegral<uint64_t>();
    o.deterministic = static_cast<int32_t>(chance());
    o.batch_invariant = static_cast<int32_t>(chance());
    o.num_threads = static_cast<int32_t>(number(0, 3));
    o.family = static_cast<int32_t>(number(0, 2));
  }

  void extras() {
    const auto own_or_q = [&] { return chance() ? float32 : dtype_; };
    if (chance()) add(dropout_state, int64, {2});
    if (chance()) {
      add(slopes, float32, {heads_q_});
      if (chance()) problem_.operands[slopes]->shape = {batch_, heads_q_};
      problem_.operands[slopes]->ndim =
          static_cast<int32_t>(problem_.operands[slopes]->shape.size());
    }
    if (chance()) {
      const fa_dtype type = own_or_q();
      add(sinks, type, {heads_q_});
      if (chance()) add(dsinks, chance() ? float32 : type, {heads_q_});
    }
    if (query_.packed || key_.packed || !chance()) return;
    const auto or_one = [&](int64_t extent) { return chance() ? extent : 1; };
    const fa_dtype type = own_or_q();
    const std::vector<int64_t> shape{or_one(batch_), or_one(heads_q_), or_one(query_.extent),
                                     key_.extent};
    add(bias, type, shape);
    if (chance()) add(dbias, chance() ? float32 : type, shape);
  }

  FuzzedDataProvider& data_;
  bool only_planned_;
  Problem problem_;
  fa_dtype dtype_{};
  int64_t batch_ = 0, heads_q_ = 0, heads_k_ = 0, dim_ = 0, dim_v_ = 0;
  Side query_, key_;
};

}  // namespace

fa_forward_args Problem::forward_args() const {
  const size_t size = args_size != 0 ? args_size : sizeof(fa_forward_args);
  return {size, c(q), c(k), c(v), c(out), c(lse)};
}

fa_backward_args Problem::backward_args() const {
  const size_t size = args_size != 0 ? args_size : sizeof(fa_backward_args);
  return {size,  c(dout), c(q),  c(k),    c(v),     c(out),   c(lse),
          c(dq), c(dk),   c(dv), c(dlse), c(dbias), c(dsinks)};
}

Problem draw_problem(FuzzedDataProvider& data, bool only_planned) {
  Problem problem = Drawer(data, only_planned).draw();
  spoil(problem, data);
  fa_options& o = problem.options;
  o.dropout_state = problem.c(dropout_state);
  o.alibi_slopes = problem.c(slopes);
  o.bias = problem.c(bias);
  o.sinks = problem.c(sinks);
  o.cu_seqlens_q = problem.c(cu_seqlens_q);
  o.cu_seqlens_k = problem.c(cu_seqlens_k);
  o.seqused_q = problem.c(seqused_q);
  o.seqused_k = problem.c(seqused_k);
  return problem;
}

}  // namespace fa::fuzz
