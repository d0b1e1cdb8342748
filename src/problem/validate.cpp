#include <cfloat>
#include <cmath>

#include "problem/argument.hpp"
#include "problem/problem.hpp"

namespace fa {

namespace {

using Use = Argument::Use;
using Dtypes = std::initializer_list<DType>;

// Positions, lengths and dropout's counters are 32-bit on every device.
constexpr int64_t max_seqlen = (int64_t{1} << 31) - 1;

/// Builds a Call argument by argument. It keeps all arguments for the overlap check at the end.
class Validator {
 public:
  Validator(Pass pass, const Tensor& q, Data data) : data_(data) {
    call_.problem.pass = pass;
    call_.problem.device = device_ = q.device;
    need_known_device("q", q);
  }

  void numbers(const Options& options);
  void shapes(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options);
  void lengths(const Options& options);
  void extras(const Options& options);
  Rows rows(const char* name, const Tensor& tensor, const Side& side, int64_t width, Use use);
  Rows lse(const char* name, const Tensor& tensor, Use use);
  void bias_gradient(const Tensor& dbias);
  void sinks_gradient(const Tensor& dsinks);
  Call finish(const Tensor& workspace) {
    if (workspace.given()) add("workspace", workspace, Use::output, {workspace.dtype});
    need_disjoint({arguments_.data(), count_});
    return call_;
  }

  Call& call() { return call_; }
  Problem& problem() { return call_.problem; }

 private:
  const Argument& add(const char* name, const Tensor& tensor, Use use, Dtypes allowed) {
    return arguments_[count_++] = Argument(name, tensor, device_, use, data_, allowed);
  }
  const Argument& known_or_added(const char* name, const Tensor& tensor, Use use, Dtypes allowed) {
    const auto end = arguments_.begin() + count_;
    const auto known =
        std::find_if(arguments_.begin(), end, [&](const Argument& a) { return a.name() == name; });
    return known != end ? *known : add(name, tensor, use, allowed);
  }
  void side(const char* name, const Argument& tensor, const char* cu_name, const Tensor& cu_seqlens,
            const char* max_name, int64_t max, Side& side);
  const int32_t* cu_seqlens(const char* name, const Tensor& tensor, const char* max_name,
                            int64_t longest, int64_t tokens);
  void paged_side(const Argument& key, const Options& options);
  void need_known_pages() const;
  const int32_t* seqused(const char* name, const Tensor& tensor, const int32_t* cu_seqlens,
                         int64_t seqlen);
  Rows bias(const char* name, const Tensor& tensor, Use use, Dtypes allowed,
            const Argument** argument);

  Data data_;
  Device device_;
  Call call_;
  std::array<Argument, 24> arguments_;  // a backward pass with everything has 21
  size_t count_ = 0;
  int64_t page_count_ = 0;  ///< of k and v
};

void need_finite(const char* name, double value) {
  if (!(std::abs(value) <= FLT_MAX)) {
    fail(Status::invalid_argument, name, "is {}; it must be a finite float32 number", value);
  }
}

/// Head dims are 8 .. 512 in steps of 8, or 576 with 512.
void need_head_dims(int64_t head_dim, int64_t head_dim_v) {
  const auto plain = [](int64_t d) { return d >= 8 && d <= 512 && d % 8 == 0; };
  // mutant "head_dim 576 with 512": head_dim == 576 => false
  if (head_dim == 576 && head_dim_v == 512) return;
  const char* allowed = "allowed: multiples of 8 from 8 to 512, or 576 with 512 for v";
  if (!plain(head_dim)) {
    fail(Status::invalid_argument, "q", "has head_dim {}; {}", head_dim, allowed);
  }
  if (!plain(head_dim_v)) {
    fail(Status::invalid_argument, "v", "has head_dim {}; {}", head_dim_v, allowed);
  }
}

void Validator::numbers(const Options& options) {
  Problem& p = problem();
  if (options.scale) need_finite("scale", *options.scale);
  // mutant "scale": options.scale => std::optional<double>()
  p.score.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(p.head_dim)));
  need_finite("softcap", options.softcap);
  if (options.softcap < 0) {
    fail(Status::invalid_argument, "softcap", "is {}; it must be positive, or 0 for none",
         options.softcap);
  }
  // Kernels divide by it in float32: a number that rounds to 0 there would make infinities.
  if (options.softcap > 0 && static_cast<float>(options.softcap) < FLT_MIN) {
    fail(Status::invalid_argument, "softcap", "is {}; it must be at least {} (or 0 for none)",
         options.softcap, FLT_MIN);
  }
  // mutant "softcap": options.softcap => 0
  p.score.softcap = options.softcap;
  if (!(options.dropout_p >= 0 && options.dropout_p < 1)) {
    fail(Status::invalid_argument, "dropout_p", "is {}; it must be at least 0 and less than 1",
         options.dropout_p);
  }
  p.dropout_p = options.dropout_p;
  // mutant "dropout: seed": options.dropout_seed => 0
  call_.dropout_seed = options.dropout_seed;
  // mutant "dropout: offset": options.dropout_offset => 0
  call_.dropout_offset = options.dropout_offset;
  const int64_t farthest = p.q.seqlen + p.k.seqlen;  // no key is farther from any diagonal
  const auto side = [&](int64_t window) {
    return window < 0 ? int64_t{-1} : std::min(window, farthest);
  };
  // mutant "window left": side(options.window_left) => -1
  p.score.window_left = side(options.window_left);
  // mutant "window right": side(options.window_right) => -1
  // mutant "causal": options.causal => false
  p.score.window_right = options.causal ? 0 : side(options.window_right);
  p.run.deterministic = options.deterministic;
  p.run.batch_invariant = options.batch_invariant;
  if (options.num_threads < 0 || options.num_threads > 4096) {
    fail(Status::invalid_argument, "num_threads", "is {}; allowed are 0 (the default) to 4096",
         options.num_threads);
  }
  p.run.num_threads = options.num_threads;
  if (options.family < Family::automatic || options.family > Family::sm90) {
    fail(Status::invalid_argument, "family", "is {}; allowed are 0 (automatic), 1 (sm80), 2 (sm90)",
         static_cast<int32_t>(options.family));
  }
  p.run.family = options.family;
}

/// For sequences that are not packed.
void need_packed_for(const char* max_name, int64_t max, const char* cu_name) {
  if (max != 0) {
    fail(Status::invalid_argument, max_name, "is {}; it is only for packed sequences ({})", max,
         cu_name);
  }
}

void Validator::side(const char* name, const Argument& tensor, const char* cu_name,
                     const Tensor& cu_seqlens, const char* max_name, int64_t max, Side& side) {
  side.packed = cu_seqlens.given();
  if (side.packed) {
    tensor.need_dims(3, "[tokens, heads, head_dim] (packed: cu_seqlens is given)");
    const Argument& cu = add(cu_name, cu_seqlens, Use::input, {int32});
    cu.need_dims(1, "[batch + 1]");
    if (cu.extent(0) < 1) {
      fail(Status::invalid_argument, cu_name, "is empty; expected [batch + 1] numbers");
    }
    side.tokens = tensor.extent(0);
    if (max < 0 || max > max_seqlen) {
      fail(Status::invalid_argument, max_name, "is {}; with {} it must be 0 to {}", max, cu_name,
           max_seqlen);
    }
    side.seqlen = std::min(max, side.tokens);
  } else {
    tensor.need_dims(4, "[batch, seqlen, heads, head_dim]");
    need_packed_for(max_name, max, cu_name);
    side.seqlen = tensor.extent(1);
    side.tokens = tensor.extent(0) * side.seqlen;
  }
  if (side.seqlen > max_seqlen) {
    fail(Status::invalid_argument, name, "has seqlen {}; allowed are up to {}", side.seqlen,
         max_seqlen);
  }
}

/// k's side where a table says in which pages the keys of each sequence lie.
void Validator::paged_side(const Argument& key, const Options& options) {
  Problem& p = problem();
  if (p.pass == Pass::backward) {
    fail(Status::unsupported, "page_table", "is offered in the forward pass only");
  }
  if (options.cu_seqlens_k.given()) {
    fail(Status::invalid_argument, "page_table",
         "is given with cu_seqlens_k; allowed is one of them");
  }
  need_packed_for("max_seqlen_k", options.max_seqlen_k, "cu_seqlens_k");
  key.need_dims(4, "[pages, page_size, heads, head_dim] (page_table is given)");
  const Argument& table = add("page_table", options.page_table, Use::input, {int32});
  table.need_dims(2, "[batch, pages of a sequence]");
  page_count_ = key.extent(0);
  p.k.page_size = key.extent(1);
  if (p.k.page_size < 1 || p.k.page_size > max_seqlen) {
    fail(Status::invalid_argument, "k", "has pages of {} keys; allowed are 1 to {}", p.k.page_size,
         max_seqlen);
  }
  if (table.extent(1) > max_seqlen / p.k.page_size) {
    fail(Status::invalid_argument, "page_table",
         "gives a sequence {} pages of {} keys; allowed are up to {} keys", table.extent(1),
         p.k.page_size, max_seqlen);
  }
  // Nobody reads a cache without pages, whatever lengths on a device say.
  p.k.seqlen = page_count_ > 0 ? table.extent(1) * p.k.page_size : 0;
  p.k.tokens = table.extent(0) * p.k.seqlen;
  call_.page_table = table.rows(0, 1, -1);
  call_.page_count = page_count_;
}

void Validator::shapes(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options) {
  Problem& p = problem();
  const Argument& query = add("q", q, Use::input, {float32, float16, bfloat16});
  p.dtype = query.dtype();
  const Argument& key = add("k", k, Use::input, {p.dtype});
  const Argument& value = add("v", v, Use::input, {p.dtype});
  side("q", query, "cu_seqlens_q", options.cu_seqlens_q, "max_seqlen_q", options.max_seqlen_q, p.q);
  const char* teller = "k";  // of the batch
  int64_t batch_k = key.extent(0);
  if (options.page_table.given()) {
    paged_side(key, options);
    teller = "page_table";
    batch_k = options.page_table.shape[0];
  } else {
    side("k", key, "cu_seqlens_k", options.cu_seqlens_k, "max_seqlen_k", options.max_seqlen_k, p.k);
    if (p.k.packed) {
      teller = "cu_seqlens_k";
      batch_k = options.cu_seqlens_k.shape[0] - 1;
    }
  }
  p.batch = p.q.packed ? options.cu_seqlens_q.shape[0] - 1 : query.extent(0);
  if (batch_k != p.batch) {
    fail(Status::invalid_argument, teller, "is for a batch of {}, but q for {}", batch_k, p.batch);
  }
  const auto last = [](const Argument& a, int back) { return a.extent(a.ndim() - back); };
  p.q.heads = last(query, 2);
  p.k.heads = last(key, 2);
  p.head_dim = last(query, 1);
  value.need_dims(key.ndim(), "as k");
  p.head_dim_v = last(value, 1);
  if (p.k.heads < 1 || p.q.heads < 1 || p.q.heads % p.k.heads != 0) {
    fail(Status::invalid_argument, "k",
         "has {} heads and q {}; q's must be a positive multiple of k's", p.k.heads, p.q.heads);
  }
  need_head_dims(p.head_dim, p.head_dim_v);
  if (std::max<int64_t>(p.batch, 1) > max_seqlen / p.q.heads) {
    fail(Status::invalid_argument, "q", "has batch {} x heads {}; allowed are up to {} together",
         p.batch, p.q.heads, max_seqlen);
  }
  call_.q = rows("q", q, p.q, p.head_dim, Use::input);
  call_.k = rows("k", k, p.k, p.head_dim, Use::input);
  call_.v = rows("v", v, p.k, p.head_dim_v, Use::input);
}

Rows Validator::rows(const char* name, const Tensor& tensor, const Side& side, int64_t width,
                     Use use) {
  const Problem& p = problem();
  const Argument& argument = known_or_added(name, tensor, use, {p.dtype});
  if (side.packed) {
    argument.need_shape({side.tokens, side.heads, width}, "[tokens, heads, head_dim]");
  } else if (side.page_size != 0) {
    argument.need_shape({page_count_, side.page_size, side.heads, width},
                        "[pages, page_size, heads, head_dim]");
  } else {
    argument.need_shape({p.batch, side.seqlen, side.heads, width},
                        "[batch, seqlen, heads, head_dim]");
  }
  if (!argument.empty()) problem().alignment = std::min(p.alignment, argument.alignment());
  return side.packed ? argument.rows(-1, 0, 1) : argument.rows(0, 1, 2);
}

Rows Validator::lse(const char* name, const Tensor& tensor, Use use) {
  const Problem& p = problem();
  const Argument& argument = add(name, tensor, use, {float32});
  if (p.q.packed) {
    argument.need_shape({p.q.heads, p.q.tokens}, "[heads_q, tokens_q]");
    return argument.rows(-1, 1, 0);
  }
  argument.need_shape({p.batch, p.q.heads, p.q.seqlen}, "[batch, heads_q, seqlen_q]");
  return argument.rows(0, 2, 1);
}

const int32_t* Validator::cu_seqlens(const char* name, const Tensor& tensor, const char* max_name,
                                     int64_t longest, int64_t tokens) {
  if (!tensor.given()) return nullptr;
  const auto* cu = reinterpret_cast<const int32_t*>(
      Argument(name, tensor, device_, Use::input, data_, {int32}).data());
  if (cu == nullptr || device_.type != cpu_device) return cu;  // a device's memory is its own
  if (cu[0] != 0)
    fail(Status::invalid_argument, name, "begins with {}; it must begin with 0", cu[0]);
  for (int64_t b = 0; b < problem().batch; ++b) {
    if (cu[b + 1] < cu[b]) {
      fail(Status::invalid_argument, name, "falls from {} to {} at sequence {}", cu[b], cu[b + 1],
           b);
    }
    // mutant "max_seqlen" of argument_test: longest => tokens
    if (cu[b + 1] - cu[b] > longest) {
      fail(Status::invalid_argument, name, "gives sequence {} the length {}; {} allows {}", b,
           cu[b + 1] - cu[b], max_name, longest);
    }
  }
  if (cu[problem().batch] > tokens) {
    fail(Status::invalid_argument, name, "ends with {}, but there are {} tokens",
         cu[problem().batch], tokens);
  }
  return cu;
}

const int32_t* Validator::seqused(const char* name, const Tensor& tensor, const int32_t* cu_seqlens,
                                  int64_t seqlen) {
  if (!tensor.given()) return nullptr;
  const Argument& argument = add(name, tensor, Use::input, {int32});
  argument.need_shape({problem().batch}, "[batch]");
  const auto* used = reinterpret_cast<const int32_t*>(argument.data());
  if (device_.type != cpu_device) return used;
  for (int64_t b = 0; used != nullptr && b < problem().batch; ++b) {
    const int64_t extent = cu_seqlens != nullptr ? cu_seqlens[b + 1] - cu_seqlens[b] : seqlen;
    if (used[b] < 0 || used[b] > extent) {
      fail(Status::invalid_argument, name, "is {} for sequence {}; allowed are 0 to its length {}",
           used[b], b, extent);
    }
  }
  return used;
}

/// Of the pages that count, as far as the host knows how many do.
void Validator::need_known_pages() const {
  const Problem& p = call_.problem;
  if (p.k.page_size == 0 || !call_.page_table.given() || device_.type != cpu_device) return;
  if (p.k.used && call_.seqused_k == nullptr) return;
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t keys = p.k.used ? call_.seqused_k[b] : p.k.seqlen;
    for (int64_t n = 0; n * p.k.page_size < keys; ++n) {
      const int32_t page = *call_.page_table.at<const int32_t>(b, n, 0);
      if (page < 0 || page >= page_count_) {
        fail(Status::invalid_argument, "page_table",
             "is {} for page {} of sequence {}; allowed are 0 to {}", page, n, b, page_count_ - 1);
      }
    }
  }
}

void Validator::lengths(const Options& options) {
  Problem& p = problem();
  call_.cu_seqlens_q = cu_seqlens("cu_seqlens_q", options.cu_seqlens_q, "max_seqlen_q",
                                  options.max_seqlen_q, p.q.tokens);
  call_.cu_seqlens_k = cu_seqlens("cu_seqlens_k", options.cu_seqlens_k, "max_seqlen_k",
                                  options.max_seqlen_k, p.k.tokens);
  p.q.used = options.seqused_q.given();
  p.k.used = options.seqused_k.given();
  call_.seqused_q = seqused("seqused_q", options.seqused_q, call_.cu_seqlens_q, p.q.seqlen);
  call_.seqused_k = seqused("seqused_k", options.seqused_k, call_.cu_seqlens_k, p.k.seqlen);
  need_known_pages();
}

/// bias and its gradient: [B or 1, Hq or 1, Sq or 1, Sk].
Rows Validator::bias(const char* name, const Tensor& tensor, Use use, Dtypes allowed,
                     const Argument** argument) {
  const Problem& p = problem();
  const Argument& a = add(name, tensor, use, allowed);
  const char* expected = "[batch or 1, heads_q or 1, seqlen_q or 1, seqlen_k]";
  a.need_dims(4, expected);
  const int64_t full[] = {p.batch, p.q.heads, p.q.seqlen, p.k.seqlen};
  for (int d = 0; d < 4; ++d) {
    if (a.extent(d) != full[d] && (d == 3 || a.extent(d) != 1)) {
      fail(Status::invalid_argument, name, "has the extent {} in dimension {}; expected {} = [{}]",
           a.extent(d), d, expected, fmt::join(full, ", "));
    }
  }
  *argument = &a;
  return a.rows(0, 2, 1);
}

void Validator::extras(const Options& options) {
  Problem& p = problem();
  if (options.dropout_state.given()) {
    const Argument& state = add("dropout_state", options.dropout_state, Use::input, {int64});
    state.need_shape({2}, "[seed, offset]");
    // mutant "dropout: state in memory": reinterpret_cast<const int64_t*>(state.data()) => nullptr
    call_.dropout_state = reinterpret_cast<const int64_t*>(state.data());
  }
  if (options.alibi_slopes.given()) {
    // mutant "ALiBi": true => false
    p.score.alibi = true;
    const Argument& slopes = add("alibi_slopes", options.alibi_slopes, Use::input, {float32});
    if (slopes.ndim() == 2) {
      slopes.need_shape({p.batch, p.q.heads}, "[batch, heads_q]");
    } else {
      slopes.need_shape({p.q.heads}, "[heads_q] or [batch, heads_q]");
    }
    // mutant "ALiBi per batch": slopes.rows(0, -1, 1) => slopes.rows(-1, -1, 1)
    call_.alibi = slopes.ndim() == 2 ? slopes.rows(0, -1, 1) : slopes.rows(-1, -1, 0);
  }
  if (options.bias.given()) {
    if (p.q.packed || p.k.packed) {
      fail(Status::unsupported, "bias", "is not offered with packed sequences ({})",
           p.q.packed ? "cu_seqlens_q" : "cu_seqlens_k");
    }
    const Argument* bias_argument = nullptr;
    call_.bias = bias("bias", options.bias, Use::input, {p.dtype, float32}, &bias_argument);
    p.score.bias = true;
    p.score.bias_dtype = bias_argument->dtype();
    // mutant "bias per batch": bias_argument->extent(0) != 1 => false
    p.score.bias_per_batch = bias_argument->extent(0) != 1;
    p.score.bias_per_head = bias_argument->extent(1) != 1;
    p.score.bias_per_row = bias_argument->extent(2) != 1;
    // Rows that a view repeats are none for the copy engine.
    const bool repeats = p.score.bias_per_row && call_.bias.row == 0;
    p.score.bias_aligned = bias_argument->alignment() == 16 && !repeats;
  }
  if (options.sinks.given()) {
    const Argument& sinks = add("sinks", options.sinks, Use::input, {p.dtype, float32});
    sinks.need_shape({p.q.heads}, "[heads_q]");
    p.score.sinks = true;
    p.score.sinks_dtype = sinks.dtype();
    call_.sinks = sinks.rows(-1, -1, 0);
  }
}

void Validator::bias_gradient(const Tensor& dbias) {
  Problem& p = problem();
  if (!dbias.given()) return;
  if (!p.score.bias) fail(Status::invalid_argument, "dbias", "is given without bias");
  const Argument* argument = nullptr;
  call_.dbias = bias("dbias", dbias, Use::output, {p.score.bias_dtype, float32}, &argument);
  const bool own[] = {p.score.bias_per_batch, p.score.bias_per_head, p.score.bias_per_row};
  for (int d = 0; d < 3; ++d) {
    if ((argument->extent(d) != 1) != own[d]) {
      fail(Status::invalid_argument, "dbias", "has the extent {} in dimension {}, unlike bias",
           argument->extent(d), d);
    }
  }
  p.wants.dbias = true;
  p.wants.dbias_dtype = argument->dtype();
}

void Validator::sinks_gradient(const Tensor& dsinks) {
  Problem& p = problem();
  if (!dsinks.given()) return;
  if (!p.score.sinks) fail(Status::invalid_argument, "dsinks", "is given without sinks");
  const Argument& argument = add("dsinks", dsinks, Use::output, {p.score.sinks_dtype, float32});
  argument.need_shape({p.q.heads}, "[heads_q]");
  call_.dsinks = argument.rows(-1, -1, 0);
  p.wants.dsinks = true;
  p.wants.dsinks_dtype = argument.dtype();
}

Validator start(Pass pass, const Tensor& q, const Tensor& k, const Tensor& v,
                const Options& options, Data data) {
  Validator validator(pass, q, data);
  validator.shapes(q, k, v, options);
  validator.numbers(options);
  validator.lengths(options);
  validator.extras(options);
  return validator;
}

}  // namespace

Call validate(const ForwardArgs& args, const Options& options, Data data, const Tensor& workspace) {
  Validator validator = start(Pass::forward, args.q, args.k, args.v, options, data);
  Call& call = validator.call();
  Problem& p = validator.problem();
  call.out = validator.rows("out", args.out, p.q, p.head_dim_v, Use::output);
  p.wants.lse = args.lse.given();
  if (p.wants.lse) call.lse = validator.lse("lse", args.lse, Use::output);
  return validator.finish(workspace);
}

Call validate(const BackwardArgs& args, const Options& options, Data data,
              const Tensor& workspace) {
  Validator validator = start(Pass::backward, args.q, args.k, args.v, options, data);
  Call& call = validator.call();
  Problem& p = validator.problem();
  call.dout = validator.rows("dout", args.dout, p.q, p.head_dim_v, Use::input);
  call.out = validator.rows("out", args.out, p.q, p.head_dim_v, Use::input);
  call.lse = validator.lse("lse", args.lse, Use::input);
  p.wants.lse = true;
  call.dq = validator.rows("dq", args.dq, p.q, p.head_dim, Use::output);
  call.dk = validator.rows("dk", args.dk, p.k, p.head_dim, Use::output);
  call.dv = validator.rows("dv", args.dv, p.k, p.head_dim_v, Use::output);
  p.wants.dlse = args.dlse.given();
  if (p.wants.dlse) call.dlse = validator.lse("dlse", args.dlse, Use::input);
  validator.bias_gradient(args.dbias);
  validator.sinks_gradient(args.dsinks);
  return validator.finish(workspace);
}

}  // namespace fa
