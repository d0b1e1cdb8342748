// Draws shapes, layouts and options.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "problem.hpp"

namespace judge {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

int64_t draw_dim(Random& random) {
  if (random.chance(0.5)) return 8 * random.integer(1, 8);
  if (random.chance(0.3)) return random.one_of<int64_t>({64, 96, 128, 192, 256, 512});
  return 8 * random.size(1, max_head_dim / 8);
}

void draw_side(Random& random, Problem& problem, Side& side, int64_t length, bool plain) {
  side.packed = random.chance(0.35);
  side.has_used = random.chance(0.25);
  side.sequences.resize(static_cast<size_t>(problem.batch));
  const bool ragged = random.chance(0.8);
  int64_t end = 0;
  int64_t longest = 0;
  for (Sequence& s : side.sequences) {
    s.extent = length;
    if (side.packed && ragged && length > 0)
      s.extent = random.integer(random.chance(0.2) ? 0 : 1, length);
    s.used = side.has_used ? random.integer(0, s.extent) : s.extent;
    if (side.has_used && random.chance(0.3)) s.used = s.extent;
    s.first = side.packed ? end : 0;
    end += s.extent;
    longest = std::max(longest, s.extent);
  }
  side.rows = length;
  if (side.packed) {
    side.rows = end + (random.chance(0.3) ? random.integer(1, 9) : 0);
    side.longest = longest + (random.chance(0.3) ? random.integer(0, 100) : 0);
    side.begins.create(random, int32, {problem.batch + 1}, plain);
    for (int64_t b = 0; b <= problem.batch; ++b) {
      side.begins.set({b}, static_cast<double>(b == problem.batch
                                                   ? end
                                                   : side.sequences[static_cast<size_t>(b)].first));
    }
  }
  if (side.has_used) {
    side.used.create(random, int32, {problem.batch}, plain);
    for (int64_t b = 0; b < problem.batch; ++b) {
      side.used.set({b}, static_cast<double>(side.sequences[static_cast<size_t>(b)].used));
    }
  }
}

void draw_shape(Random& random, Problem& problem) {
  problem.format = random.one_of<const Format*>({&float32, &float16, &bfloat16});
  problem.dim = draw_dim(random);
  problem.dim_v = random.chance(0.7) ? problem.dim : draw_dim(random);
  if (random.chance(0.02)) {
    problem.dim = 576;
    problem.dim_v = 512;
  }
  problem.batch = random.chance(0.5) ? 1 : random.integer(2, 4);
  if (random.chance(0.005)) problem.batch = 0;
  problem.heads_k = random.chance(0.5) ? 1 : random.integer(2, 4);
  problem.group = random.chance(0.4) ? 1 : random.integer(2, 8);
  // The judge has time for this many products (pairs times head_dim) and this many elements.
  const double work = random.chance(0.6) ? 5e4 : random.chance(0.8) ? 3e5 : 2e6;
  const double elements = random.chance(0.8) ? 2e4 : 1e5;
  const auto dims = static_cast<double>(problem.dim + problem.dim_v);
  const auto most_of = [&](double total, double each, double limit) {
    return static_cast<int64_t>(std::clamp(total / each, 1.0, limit));
  };
  const auto batch = static_cast<double>(problem.batch);
  const auto heads = batch * static_cast<double>(problem.heads_q());
  const auto heads_k = batch * static_cast<double>(problem.heads_k);
  const int64_t pairs = most_of(work, heads * dims / 2, 1e9);
  const int64_t most_rows = std::min(pairs, most_of(elements, heads * dims, 400));
  const int64_t rows = random.chance(0.25) ? random.integer(1, std::min<int64_t>(4, most_rows))
                                           : random.size(1, most_rows);
  const int64_t most_keys =
      std::min(std::max<int64_t>(1, pairs / rows), most_of(elements, heads_k * dims, 6000));
  const int64_t keys = random.chance(0.5)
                           ? most_keys
                           : random.integer(std::max<int64_t>(1, most_keys / 4), most_keys);
  const bool plain = random.chance(0.3);
  draw_side(random, problem, problem.rows, random.chance(0.01) ? 0 : rows, plain);
  draw_side(random, problem, problem.keys, random.chance(0.01) ? 0 : keys, plain);

  const auto create = [&](Tensor& tensor, const Side& side, int64_t heads, int64_t dim,
                          bool written) {
    std::vector<int64_t> shape{side.rows, heads, dim};
    if (!side.packed) shape.insert(shape.begin(), problem.batch);
    // Rows that do not count are filled with NaN, which must not be others' as well.
    const bool all = !side.packed && !side.has_used;
    const unsigned repeatable = side.packed ? 0b010U : all ? 0b111U : 0b100U;
    tensor.create(random, *problem.format, std::move(shape), plain, written ? 0 : repeatable);
  };
  create(problem.q, problem.rows, problem.heads_q(), problem.dim, false);
  create(problem.k, problem.keys, problem.heads_k, problem.dim, false);
  create(problem.v, problem.keys, problem.heads_k, problem.dim_v, false);
  create(problem.dout, problem.rows, problem.heads_q(), problem.dim_v, false);
  create(problem.out, problem.rows, problem.heads_q(), problem.dim_v, true);
  create(problem.dq, problem.rows, problem.heads_q(), problem.dim, true);
  create(problem.dk, problem.keys, problem.heads_k, problem.dim, true);
  create(problem.dv, problem.keys, problem.heads_k, problem.dim_v, true);
  std::vector<int64_t> lse{problem.heads_q(), problem.rows.rows};
  if (!problem.rows.packed) lse.insert(lse.begin(), problem.batch);
  problem.lse.create(random, float32, lse, plain);
  if (random.chance(0.3)) problem.dlse.create(random, float32, lse, plain);
}

int64_t draw_window(Random& random, int64_t length) {
  if (random.chance(0.2)) return random.one_of<int64_t>({-1, -7, INT64_MIN / 2});
  if (random.chance(0.1)) return int64_t{1} << random.integer(20, 62);
  return random.integer(0, length);
}

void draw_scores(Random& random, Problem& problem) {
  fa_options& options = problem.options;
  if (random.chance(0.4)) {
    options.has_scale = 1;
    options.scale = random.one_of({0.0, -0.0, 1.0, 0.125, -0.1, -1.0, 3.0});
    if (random.chance(0.3)) options.scale = random.sign() * random.magnitude(1e-30, 1e4);
  }
  options.causal = random.chance(0.3) ? static_cast<int32_t>(random.one_of({1, 1, -1, 256})) : 0;
  if (random.chance(0.3)) {
    options.window_left = draw_window(random, problem.keys.rows);
    options.window_right = draw_window(random, problem.keys.rows);
  }
  if (random.chance(0.2)) {
    options.softcap =
        random.chance(0.5) ? random.one_of({5.0, 30.0, 50.0}) : random.magnitude(0.01, 1e20);
  }
  if (random.chance(0.2)) {
    options.dropout_p =
        random.chance(0.7) ? random.real(0, 0.95) : random.one_of({1e-12, 0.5, 0.999, 1 - 1e-6});
    problem.dropout_seed = random.bits();
    problem.dropout_offset = random.chance(0.5) ? random.bits() : random.bits() % 100;
    options.dropout_seed = problem.dropout_seed;
    options.dropout_offset = problem.dropout_offset;
    if (random.chance(0.3)) {
      options.dropout_seed = random.bits();  // does not count then
      problem.dropout_state.create(random, int64, {2}, false);
      problem.dropout_state.set_integer({0}, problem.dropout_seed);
      problem.dropout_state.set_integer({1}, problem.dropout_offset);
    }
  }
}

void draw_alibi(Random& random, Problem& problem) {
  if (random.chance(0.8)) return;
  std::vector<int64_t> shape{problem.heads_q()};
  if (random.chance(0.5)) shape.insert(shape.begin(), problem.batch);
  problem.alibi.create(random, float32, shape, false);
  const double factor = random.one_of({1.0, 0.1, -0.1, 1e4});
  for (int64_t n = 0; n < problem.alibi.elements(); ++n) {
    problem.alibi.set(problem.alibi.index(n), factor * random.magnitude(1e-3, 1));
  }
}

double draw_bias_value(Random& random, int kind) {
  const double x = random.normal();
  switch (kind) {
    case 0:
      return x;
    case 1:
      return random.chance(0.3) ? -infinity : x;
    case 2:
      return random.chance(0.95) ? -infinity : x;
    case 3:
      return random.chance(0.3) ? -1e30 : x;
    case 4:
      return 1e5 + 10 * x;
    case 5:
      return -infinity;
    default:
      return 30 * x;
  }
}

void draw_bias(Random& random, Problem& problem) {
  if (problem.rows.packed || problem.keys.packed || random.chance(0.5)) return;
  const auto extent = [&](int64_t full) { return random.chance(0.4) ? 1 : full; };
  const bool own_batch = random.chance(0.5);
  const Format& format = random.chance(0.5) ? float32 : *problem.format;
  problem.bias.create(random, format,
                      {own_batch ? problem.batch : 1, extent(problem.heads_q()),
                       extent(problem.rows.rows), problem.keys.rows},
                      false, 0b111U);
  const int kind = static_cast<int>(random.integer(0, 6));
  const int64_t used_q = problem.rows.most_used();
  const int64_t used_k = problem.keys.most_used();
  for (int64_t n = 0; n < problem.bias.elements(); ++n) {
    const Tensor::Index i = problem.bias.index(n);
    double x = draw_bias_value(random, kind);
    if (std::isfinite(x)) x = std::clamp(x, -format.largest(), format.largest());
    const bool row_beyond =
        problem.bias.extent(2) > 1 && i[2] >= used_q && !problem.bias.layout().repeated;
    problem.bias.set(i, i[3] >= used_k || row_beyond ? nan : x);
  }
  static const char* const names[] = {"normal", "-inf 30%", "-inf 95%",   "-1e30",
                                      "1e5",    "-inf all", "normal x 30"};
  problem.met.emplace_back(std::string("bias values: ") + names[kind]);
  if (random.chance(0.85)) {
    std::vector<int64_t> shape;
    for (int d = 0; d < 4; ++d) shape.push_back(problem.bias.extent(d));
    problem.dbias.create(random, random.chance(0.5) ? float32 : format, shape, false);
  }
}

void draw_sinks(Random& random, Problem& problem) {
  if (random.chance(0.8)) return;
  const Format& format = random.chance(0.5) ? float32 : *problem.format;
  problem.sinks.create(random, format, {problem.heads_q()}, false);
  const double factor = random.one_of({1.0, 1.0, 30.0, 1e4});
  for (int64_t h = 0; h < problem.heads_q(); ++h) {
    problem.sinks.set({h}, random.chance(0.1) ? -infinity : factor * random.real(-1, 1));
  }
  if (random.chance(0.85)) {
    problem.dsinks.create(random, random.chance(0.5) ? float32 : format, {problem.heads_q()},
                          false);
  }
}

void note(Problem& problem) {
  std::vector<std::string>& met = problem.met;
  const fa_options& o = problem.options;
  const auto when = [&](bool yes, const char* what) {
    if (yes) met.emplace_back(what);
  };
  met.emplace_back(problem.format->name);
  when(problem.rows.packed, "packed q");
  when(problem.keys.packed, "packed k");
  when(problem.rows.packed != problem.keys.packed, "one side packed");
  when(problem.rows.has_used, "seqused_q");
  when(problem.keys.has_used, "seqused_k");
  when(problem.batch == 0, "no sequences");
  when(problem.rows.rows == 0, "no rows");
  when(problem.keys.rows == 0, "no keys");
  when(problem.keys.most_used() > 512, "over 512 keys");
  when(problem.group > 1, "grouped heads");
  when(problem.dim != problem.dim_v, "head_dim_v != head_dim");
  when(problem.dim == 576, "head_dim 576, 512");
  when(problem.dim > 256 && problem.dim != 576, "head_dim over 256");
  when(o.causal != 0, "causal");
  when(o.window_left >= 0 || o.window_right >= 0, "window");
  when(std::max(o.window_left, o.window_right) > int64_t{1} << 31, "window over 2^31");
  when(o.softcap != 0, "softcap");
  when(o.has_scale != 0 && o.scale == 0, "scale 0");
  when(o.scale < 0, "scale negative");
  when(o.has_scale != 0 && o.scale != 0 && std::abs(o.scale) < 1e-6, "scale tiny");
  when(std::abs(o.scale) > 1, "scale over 1");
  when(o.dropout_p > 0, "dropout");
  when(o.dropout_p > 0.99, "dropout over 0.99");
  when(problem.dropout_state.given(), "dropout_state");
  when(problem.alibi.given(), "alibi");
  when(problem.bias.given(), "bias");
  when(problem.sinks.given(), "sinks");
  when(problem.dlse.given(), "dlse");
  when(problem.by_plan, "plan");
  when(problem.without_lse, "no lse");
  when(problem.again, "again");
  when(o.num_threads > 1, "threads");
  Layout any;
  for (const Tensor* t : {&problem.q, &problem.k, &problem.v, &problem.out, &problem.dout,
                          &problem.dq, &problem.dk, &problem.dv}) {
    any.permuted |= t->layout().permuted;
    any.gaps |= t->layout().gaps;
    any.negative |= t->layout().negative;
    any.offset |= t->layout().offset;
    any.repeated |= t->layout().repeated;
  }
  when(any.permuted, "layout: permuted");
  when(any.gaps, "layout: gaps");
  when(any.negative, "layout: negative strides");
  when(any.offset, "layout: unaligned");
  when(any.repeated, "layout: stride 0");
}

}  // namespace

int64_t Side::most_used() const {
  int64_t most = 0;
  for (const Sequence& s : sequences) most = std::max(most, s.used);
  return most;
}

double Problem::scale() const {
  return options.has_scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(dim));
}

bool Problem::seen(int64_t used_q, int64_t used_k, int64_t row, int64_t key) const {
  const int64_t ahead = key - (row + used_k - used_q);
  const int64_t right = options.causal != 0 ? 0 : options.window_right;
  if (right >= 0 && ahead > right) return false;
  return options.window_left < 0 || -ahead <= options.window_left;
}

std::string Problem::text() const {
  std::ostringstream s;
  s << format->name << ", batch " << batch << ", heads " << heads_q() << "/" << heads_k
    << ", head_dim " << dim << "/" << dim_v << ", scale " << scale() << ", softcap "
    << options.softcap << ", window " << options.window_left << " " << options.window_right
    << ", dropout " << options.dropout_p << ", threads " << options.num_threads << "; rows/keys";
  for (size_t b = 0; b < rows.sequences.size(); ++b) {
    s << " " << rows.sequences[b].used << "/" << keys.sequences[b].used;
  }
  s << ";";
  for (const std::string& what : met) s << " [" << what << "]";
  return s.str();
}

void draw(uint64_t seed, uint64_t number, Problem& problem) {
  Random random(seed, number);
  problem.seed = seed;
  problem.number = number;
  draw_shape(random, problem);
  draw_scores(random, problem);
  draw_alibi(random, problem);
  draw_bias(random, problem);
  draw_sinks(random, problem);
  problem.by_plan = random.chance(0.4);
  problem.without_lse = random.chance(0.1);
  problem.again = random.chance(0.1);
  problem.options.num_threads = random.chance(0.1) ? static_cast<int32_t>(random.integer(2, 4)) : 1;
  fa_options& options = problem.options;
  options.deterministic = random.chance(0.2) ? 1 : 0;  // means nothing here, nor do these
  options.batch_invariant = random.chance(0.2) ? 1 : 0;
  options.family = static_cast<int32_t>(random.integer(0, 2));
  fill_values(random, problem);

  options.dropout_state = problem.dropout_state.abi();
  options.alibi_slopes = problem.alibi.abi();
  options.bias = problem.bias.abi();
  options.sinks = problem.sinks.abi();
  options.cu_seqlens_q = problem.rows.begins.abi();
  options.cu_seqlens_k = problem.keys.begins.abi();
  options.max_seqlen_q = problem.rows.packed ? problem.rows.longest : 0;
  options.max_seqlen_k = problem.keys.packed ? problem.keys.longest : 0;
  options.seqused_q = problem.rows.used.abi();
  options.seqused_k = problem.keys.used.abi();
  note(problem);
}

}  // namespace judge
