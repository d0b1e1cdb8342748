#include "check/spec.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "check/option_tensors.hpp"

namespace fa::check {
namespace {

using F = Feature;

/// Draws a Spec from the features asked for: what a plan depends on from `fixed`, which must be
/// asked the same questions whatever the rest.
class Draft {
 public:
  Draft(const Offer& offer, const Features& features, Random& fixed, Random& random)
      : offer_(offer), has_(features), fixed_(fixed), random_(random) {
    s_.offer = &offer;
  }

  Spec spec() {
    draw_sizes();
    draw_lengths();
    draw_pages();
    limit_work();
    draw_score_options();
    draw_tensors();
    draw_the_rest();
    return s_;
  }

 private:
  bool has(F f) const { return has_[bit(f)]; }
  bool long_sequences() const { return has(F::tile_edges) || has(F::many_keys); }
  int64_t draw_dim() {
    if (offer_.most_dim > 0) {
      if (fixed_.chance(0.6))
        return fixed_.pick({offer_.least_dim, offer_.least_dim, offer_.most_dim});
      return 8 * fixed_.between(offer_.least_dim / 8, offer_.most_dim / 8);
    }
    if (fixed_.chance(offer_.any_dim ? 0.08 : 0.3)) return 8 * fixed_.between(1, 32);
    if (!offer_.any_dim) return 32 * fixed_.pick({1, 2, 2, 2, 3, 4, 4, 4, 6, 8, 8});
    return 8 * fixed_.pick({1, 1, 2, 2, 3, 4, 5, 8});
  }
  int64_t draw_wide_dim() { return fixed_.chance(0.5) ? 512 : 8 * fixed_.between(33, 63); }
  DType own_or_float32() { return fixed_.chance(0.5) ? s_.dtype : float32; }
  /// Mostly small; what lies around 1, and what a vector register holds, more often than others.
  int64_t small_length(int64_t limit) {
    if (random_.chance(0.2)) return random_.pick({1, 1, 2, 7, 8, 9, 15, 16, 17});
    return random_.between(1, limit);
  }

  void draw_sizes();
  void draw_wide_dims();
  void draw_lengths();
  void draw_side(SideSpec& side, bool packed, bool used, int64_t longest, int64_t edge);
  void draw_zero_length();
  void draw_empty_rows();
  void draw_pages();
  void limit_work();
  void draw_score_options();
  void draw_tensors();
  void draw_the_rest();
  void draw_magnitudes();

  const Offer& offer_;
  const Features& has_;
  Random& fixed_;
  Random& random_;
  Spec s_;
  int64_t longest_ = 0;  ///< the sequence that crosses the tiles' edges
};

void Draft::draw_sizes() {
  s_.dtype = has(F::fp32) ? float32 : has(F::fp16) ? float16 : bfloat16;
  s_.batch = long_sequences() ? random_.pick<int64_t>({1, 1, 2}) : random_.between(1, 3);
  if (has(F::zero_length) || has(F::empty_rows)) s_.batch = random_.between(2, 3);
  s_.heads_k = random_.pick<int64_t>({1, 1, 2, 3, 4});
  int64_t group = 1;
  if (has(F::gqa)) {
    s_.heads_k = random_.pick<int64_t>({1, 1, 2});
    group = random_.between(2, 8 / s_.heads_k);
  }
  s_.heads_q = s_.heads_k * group;
  s_.dim = draw_dim();
  s_.dim_v = s_.dim;
  while (has(F::v_dim) && s_.dim_v == s_.dim) s_.dim_v = draw_dim();
  if (has(F::wide)) draw_wide_dims();
}

/// Q's and K's head_dim, V's, or both.
void Draft::draw_wide_dims() {
  if (!has(F::v_dim)) {
    s_.dim = s_.dim_v = draw_wide_dim();
    return;
  }
  if (fixed_.chance(0.25)) {
    s_.dim = 576;
    s_.dim_v = 512;
    return;
  }
  const int64_t which = fixed_.between(1, 3);
  do {
    if ((which & 1) != 0) s_.dim = draw_wide_dim();
    if ((which & 2) != 0) s_.dim_v = draw_wide_dim();
  } while (s_.dim == s_.dim_v);
}

void Draft::draw_side(SideSpec& side, bool packed, bool used, int64_t longest, int64_t edge) {
  side.packed = packed;
  side.seqused = used;
  side.seqlen = longest;
  for (int64_t b = 0; b < s_.batch; ++b) {
    side.extent.push_back(
        packed && b != longest_ ? random_.below(std::min<int64_t>(longest, 40) + 1) : longest);
    if (!used) continue;
    const int64_t extent = side.extent[b];
    // The longest still crosses its edge.
    const int64_t least = b == longest_ ? std::min(extent, edge + 1) : 0;
    side.used.push_back(random_.chance(0.3) ? extent : random_.between(least, extent));
  }
  if (packed) {
    side.tail = random_.chance(0.3) ? random_.between(1, 5) : 0;
    side.max_seqlen = *std::max_element(side.extent.begin(), side.extent.end());
    if (random_.chance(0.3)) side.max_seqlen += random_.between(1, 100);
  }
}

void Draft::draw_lengths() {
  longest_ = random_.below(s_.batch);
  int64_t rows = small_length(offer_.small_rows);
  int64_t keys = random_.chance(0.2) ? rows : small_length(offer_.small_keys);
  if (has(F::tile_edges)) {
    const bool second = random_.chance(0.2) && !has(F::wide);  // the tiles' next edges
    rows =
        offer_.tile_rows + (second ? random_.between(offer_.next_rows_least, offer_.next_rows_most)
                                   : random_.between(1, 40));
    keys =
        offer_.tile_keys + (second ? random_.between(offer_.next_keys_least, offer_.next_keys_most)
                                   : random_.between(1, 50));
    if (random_.chance(0.03) && !has(F::wide)) keys = offer_.split_keys + random_.between(1, 60);
  } else if (has(F::many_keys)) {
    rows = random_.between(1, 4);
    keys = offer_.split_keys * random_.between(1, offer_.split_most) + random_.between(-1, 40);
  }
  const bool by_mask = has(F::empty_rows) && !has(F::many_keys) && fixed_.chance(0.5);
  if (by_mask) {
    s_.causal = true;
    rows = keys + random_.between(1, 20);
  }
  const bool zero_keys = has(F::empty_rows) && !by_mask;
  const bool zero = zero_keys || (has(F::zero_length) && long_sequences());
  const bool ragged = has(F::packed_k) || has(F::used_k);
  draw_side(s_.rows, has(F::packed_q), has(F::used_q), rows,
            has(F::tile_edges) ? offer_.tile_rows : 0);
  draw_side(s_.keys, has(F::packed_k), has(F::used_k) || (zero && !ragged), keys,
            has(F::tile_edges)  ? offer_.tile_keys
            : has(F::many_keys) ? offer_.split_keys - 2
                                : 0);
  if (has(F::empty_rows) && !by_mask) draw_empty_rows();
  if (has(F::zero_length)) draw_zero_length();
}

/// A sequence with rows and no keys.
void Draft::draw_empty_rows() {
  const int64_t b = (longest_ + 1) % s_.batch;
  if (s_.keys.seqused) {
    s_.keys.used[b] = 0;
  } else {
    s_.keys.extent[b] = 0;
  }
  if (s_.rows.packed && s_.rows.extent[b] == 0) {
    s_.rows.extent[b] = 1;
    s_.rows.max_seqlen = std::max<int64_t>(s_.rows.max_seqlen, 1);
  }
  if (s_.rows.seqused) s_.rows.used[b] = s_.rows.extent[b];
}

void Draft::draw_zero_length() {
  const int64_t b = (longest_ + 1) % s_.batch;
  SideSpec& side = has(F::empty_rows) || random_.chance(0.5) ? s_.keys : s_.rows;
  if (side.seqused) {
    side.used[b] = 0;
  } else if (side.packed) {
    side.extent[b] = 0;
  } else if (!long_sequences()) {
    side.seqlen = 0;
    std::fill(side.extent.begin(), side.extent.end(), 0);
  } else if (s_.keys.seqused) {
    s_.keys.used[b] = 0;
  } else {
    s_.keys.extent[b] = 0;
  }
}

/// Whole pages, whose last keys count only where seqused says how many do.
void Draft::draw_pages() {
  if (!has(F::paged)) return;
  s_.page_size = fixed_.pick({1, 3, 8, 16, 24, 64, 128, 256});
  SideSpec& keys = s_.keys;
  keys.seqlen = (keys.seqlen + s_.page_size - 1) / s_.page_size * s_.page_size;
  std::fill(keys.extent.begin(), keys.extent.end(), keys.seqlen);
}

void Draft::limit_work() {
  double scores = 0;
  for (int64_t b = 0; b < s_.batch; ++b) {
    scores += static_cast<double>(s_.rows.length(b)) * static_cast<double>(s_.keys.length(b));
  }
  const auto work = [&] { return scores * static_cast<double>(s_.heads_q * (s_.dim + s_.dim_v)); };
  while (work() > offer_.work_limit && s_.heads_k > 1) {
    s_.heads_q -= s_.heads_q / s_.heads_k;
    --s_.heads_k;
  }
  const int64_t least = has(F::gqa) ? 2 : 1;
  while (work() > offer_.work_limit && s_.heads_q > least) --s_.heads_q;
  if (!offer_.any_dim || has(F::wide) || random_.chance(0.02)) return;
  while (work() > offer_.work_limit && std::max(s_.dim, s_.dim_v) > 16) {
    int64_t& larger = s_.dim > s_.dim_v ? s_.dim : s_.dim_v;
    larger -= 8;
    if (!has(F::v_dim)) s_.dim = s_.dim_v = std::min(s_.dim, s_.dim_v);
  }
}

void Draft::draw_score_options() {
  if (has(F::scale)) {
    s_.scale = random_.pick({1.0, 0.3, 0.0625, 0.1234567});
    if (has(F::scale_not_positive)) s_.scale = random_.pick({0.0, -0.25, -0.6});
  }
  s_.causal = s_.causal || has(F::causal);
  if (has(F::window)) {
    const auto side = [&] {
      if (fixed_.chance(0.05)) return std::numeric_limits<int64_t>::max();
      return fixed_.chance(0.3) ? random_.between(-3, -1) : random_.below(s_.keys.seqlen / 2 + 8);
    };
    s_.window_left = side();
    s_.window_right = side();
    if (s_.window_left < 0 && s_.window_right < 0) s_.window_left = random_.below(20);
  }
  if (has(F::softcap)) s_.softcap = random_.pick({0.5, 2.0, 15.0, 50.0});
  if (has(F::dropout)) {
    s_.dropout_p = random_.pick({0.1, 0.1, 0.5, 0.9, 1e-11, 0.999});
    if (s_.dtype == float16) s_.dropout_p = std::min(s_.dropout_p, 0.9);  // see draw_magnitudes
    s_.dropout_seed = random_.next();
    s_.dropout_offset = random_.chance(0.5) ? random_.next() : random_.next() % 1000;
    s_.dropout_state = has(F::dropout_state);
  }
}

void Draft::draw_tensors() {
  for (const OptionTensor& o : option_tensors()) {
    if (!has(o.given)) continue;
    std::vector<int64_t>& shape = s_.tensors[o.given].shape;
    shape = o.full_shape(s_);
    if (o.without_batch && !random_.chance(0.5)) shape.erase(shape.begin());
  }
  for (const OptionTensor& o : option_tensors()) {
    if (!has(o.given)) continue;
    TensorSpec& t = s_.tensors[o.given];
    const size_t before_keys = t.shape.size() - 1;
    const int64_t all = (int64_t{1} << before_keys) - 1;
    const int64_t ones = o.broadcast && has(*o.broadcast) ? fixed_.between(1, all) : 0;
    for (size_t d = 0; d < before_keys; ++d) {
      if ((ones >> d) % 2 == 1) t.shape[d] = 1;
    }
    if (o.of_q_dtype) t.dtype = own_or_float32();
    t.masks = o.masks && has(*o.masks);
    if (!o.gradient) continue;
    t.gradient = has(o.gradient->wanted);
    t.gradient_dtype = fixed_.chance(0.5) ? t.dtype : float32;
  }
}

void Draft::draw_the_rest() {
  s_.backward = has(F::backward);
  s_.lse = !has(F::no_lse);
  s_.dlse = has(F::dlse);
  s_.strided = has(F::strided);
  s_.unaligned = has(F::unaligned);
  s_.num_threads = has(F::threads) ? static_cast<int32_t>(random_.between(2, 4)) : 1;
  s_.deterministic = has(F::deterministic);
  s_.batch_invariant = has(F::batch_invariant);
  if (!offer_.any_dim && s_.unaligned) s_.alignment = fixed_.pick({8, 4, 2});
  draw_magnitudes();
}

void Draft::draw_magnitudes() {
  // In float16 no gradient, nor dP of the plain formula, may come near 65504: there one size at a
  // time is large, and not by much. Elsewhere squares of the sizes must fit float32.
  const bool half = s_.dtype == float16;
  const double limit = half ? 4 : 1e13;
  const auto some = [&] { return half ? int64_t{1} << random_.below(3) : random_.between(1, 7); };
  double& third = offer_.features[bit(F::backward)] ? s_.dout_size : s_.value_size;
  if (has(F::large)) {
    const int64_t which = some();
    if ((which & 1) != 0) s_.score_size = random_.pick({8.0, 30.0});
    if ((which & 2) != 0) s_.value_size = std::pow(limit, random_.uniform());
    if ((which & 4) != 0) third = std::pow(limit, random_.uniform());
  }
  if (has(F::tiny)) {
    const int64_t which = random_.between(1, 7);
    const bool subnormal = offer_.extremes && random_.chance(0.3);
    const double size = !subnormal ? 1e-3 : half ? 1e-6 : 1e-39;
    if ((which & 1) != 0) s_.score_size = size;
    if ((which & 2) != 0) s_.value_size = size;
    if ((which & 4) != 0) third = size;
    if (subnormal && random_.chance(0.5)) s_.key_size = size;
  }
  if (!offer_.extremes) return;
  if (random_.chance(0.2)) s_.sink_size = 30;
  s_.same_values = random_.chance(0.1);
  if (s_.same_values && random_.chance(0.5)) s_.score_size = 0;  // and all weights of a row
}

void empty_the_batch(Spec& s) {
  s.batch = 0;
  for (SideSpec* side : {&s.rows, &s.keys}) {
    side->extent.clear();
    side->used.clear();
  }
  for (const OptionTensor& o : option_tensors()) {
    const auto found = s.tensors.find(o.given);
    if (found == s.tensors.end()) continue;
    TensorSpec& t = found->second;
    // An extent of 1 may stand for no sequence as well.
    const bool stands = o.broadcast && t.shape.front() == 1;
    if (o.dims_of(t).front() == Dim::batch && !stands) t.shape.front() = 0;
  }
}

bool has_empty_row(const Spec& s) {
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t rows = s.rows.length(b), keys = s.keys.length(b);
    for (int64_t i = 0; i < rows; ++i) {
      const auto diagonal = static_cast<double>(i + keys - rows);
      double from = 0, to = static_cast<double>(keys - 1);
      if (s.window_left >= 0) from = std::max(from, diagonal - static_cast<double>(s.window_left));
      if (s.window_right >= 0) to = std::min(to, diagonal + static_cast<double>(s.window_right));
      if (s.causal) to = std::min(to, diagonal);
      if (from > to) return true;
    }
  }
  return false;
}

std::string side_text(const char* name, const SideSpec& side) {
  std::string text = side.packed ? fmt::format(" {}=packed{}", name, side.extent)
                                 : fmt::format(" {}={}", name, side.seqlen);
  if (side.tail > 0) text += fmt::format("+{}", side.tail);
  if (side.seqused) text += fmt::format(" used{}", side.used);
  return text;
}

const char* dtype_text(DType dtype) {
  return dtype == float32 ? "fp32" : dtype == float16 ? "fp16" : "bf16";
}

}  // namespace

int64_t SideSpec::total() const {
  if (!packed) return seqlen * static_cast<int64_t>(extent.size());
  return std::accumulate(extent.begin(), extent.end(), tail);
}

int64_t SideSpec::first(int64_t b) const {
  return std::accumulate(extent.begin(), extent.begin() + b, int64_t{0});
}

bool Spec::added_as_they_come(std::string_view output) const {
  if (output != "dbias") return output == "dq";
  const std::vector<int64_t>& bias = tensors.at(F::bias).shape;
  return bias[2] == rows.seqlen && (bias[0] < batch || bias[1] < heads_q);
}

Features Spec::features() const {
  Features f;
  if (batch == 0) return f;
  const auto set = [&f](Feature feature, bool has) { f.set(bit(feature), has); };
  set(dtype == float32 ? F::fp32 : dtype == float16 ? F::fp16 : F::bf16, true);
  set(F::backward, backward);
  set(F::no_lse, !lse);
  set(F::gqa, heads_q > heads_k);
  set(F::causal, causal);
  set(F::window, window_left >= 0 || window_right >= 0);
  set(F::softcap, softcap > 0);
  set(F::scale, scale.has_value());
  set(F::scale_not_positive, scale.has_value() && *scale <= 0);
  set(F::dropout, dropout_p > 0);
  set(F::dropout_state, dropout_state);
  for (const OptionTensor& o : option_tensors()) {
    const TensorSpec* t = tensor(o.given);
    if (t == nullptr) continue;
    set(o.given, true);
    if (o.broadcast) set(*o.broadcast, o.is_broadcast(*t, *this));
    if (o.masks) set(*o.masks, t->masks);
    if (o.gradient) set(o.gradient->wanted, t->gradient);
  }
  set(F::dlse, dlse);
  set(F::packed_q, rows.packed);
  set(F::packed_k, keys.packed);
  set(F::used_q, rows.seqused);
  set(F::used_k, keys.seqused);
  set(F::paged, page_size > 0);
  set(F::v_dim, dim_v != dim);
  set(F::wide, std::max(dim, dim_v) > 256);
  set(F::strided, strided);
  set(F::unaligned, unaligned);
  set(F::threads, num_threads > 1);
  set(F::deterministic, deterministic);
  set(F::batch_invariant, batch_invariant);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = rows.length(b), m = keys.length(b);
    if (n > offer->tile_rows && m > offer->tile_keys) set(F::tile_edges, true);
    if (n > 0 && n < 8 && m >= offer->split_keys - 1) set(F::many_keys, true);
    if (n == 0 || m == 0) set(F::zero_length, true);
  }
  set(F::empty_rows, has_empty_row(*this));
  const auto sizes = {score_size, key_size, value_size, dout_size};
  set(F::large, std::max(sizes) > 1);
  set(F::tiny, std::min(sizes) < 1);
  return f;
}

std::string Spec::text() const {
  std::string t =
      fmt::format("{} {} b={} heads={}/{} dim={}/{}", dtype_text(dtype),
                  backward ? "backward" : "forward", batch, heads_q, heads_k, dim, dim_v);
  t += side_text("q", rows) + side_text("k", keys);
  if (page_size > 0) t += fmt::format(" in pages of {}", page_size);
  if (!lse) t += " no_lse";
  if (scale) t += fmt::format(" scale={}", *scale);
  if (causal) t += " causal";
  if (window_left >= 0 || window_right >= 0) {
    t += fmt::format(" window={},{}", window_left, window_right);
  }
  if (softcap > 0) t += fmt::format(" softcap={}", softcap);
  if (dropout_p > 0) {
    t += fmt::format(" dropout={} seed={} offset={}{}", dropout_p, dropout_seed, dropout_offset,
                     dropout_state ? " in memory" : "");
  }
  for (const OptionTensor& o : option_tensors()) {
    const TensorSpec* given = tensor(o.given);
    if (given == nullptr) continue;
    t += fmt::format(" {}{} {}{}", o.name, given->shape, dtype_text(given->dtype),
                     given->masks ? " -inf" : "");
    if (given->gradient) {
      t += fmt::format(" {} {}", o.gradient->name, dtype_text(given->gradient_dtype));
    }
  }
  if (dlse) t += " dlse";
  if (strided) t += " strided";
  if (unaligned) t += " unaligned";
  if (alignment > 0) t += fmt::format("={}", alignment);
  t += fmt::format(" threads={}", num_threads);
  if (family != Family::automatic) t += family == Family::sm80 ? " family=sm80" : " family=sm90";
  if (score_size != 1 || key_size != 1 || value_size != 1 || dout_size != 1) {
    t += fmt::format(" sizes q={:.3g} k={:.3g} v={:.3g} dout={:.3g}", score_size, key_size,
                     value_size, dout_size);
  }
  if (tensor(F::sinks) != nullptr) t += fmt::format(" sinks={}", sink_size);
  if (same_values) t += " same values";
  return t;
}

Spec draw_spec(const Offer& offer, const Features& features, Random& fixed, Random& random) {
  Spec spec = Draft(offer, features, fixed, random).spec();
  if (random.chance(0.01)) empty_the_batch(spec);
  return spec;
}

Spec draw_refused(const Offer& offer, Pair pair, uint64_t seed) {
  Random random(seed);
  Spec spec = Draft(offer, with_needs(pair), random, random).spec();
  // A bias that would fit if the sequences were not packed.
  std::vector<int64_t>& bias = spec.tensors.at(F::bias).shape;
  bias[2] = 1;
  bias[3] = spec.keys.packed ? spec.keys.total() : spec.keys.seqlen;
  return spec;
}

}  // namespace fa::check
