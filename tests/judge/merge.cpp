// Random merges of two parts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "run.hpp"

namespace judge {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Part {
  Tensor out, lse;
};

Tensor::Index lse_index(const Tensor::Index& out, bool packed) {
  return packed ? Tensor::Index{out[1], out[0]} : Tensor::Index{out[0], out[2], out[1]};
}

// Some rows have seen no key: what their part of out holds is nothing.
void fill(Random& random, Part& part, bool packed) {
  const bool empty_rows = random.chance(0.3);
  const double lse_factor = random.one_of({1.0, 10.0, 1e3, 1e-3});
  const double shift = random.one_of({0.0, 0.0, 100.0, -1e4});
  for (int64_t n = 0; n < part.lse.elements(); ++n) {
    const bool empty = empty_rows && random.chance(0.3);
    part.lse.set(part.lse.index(n),
                 empty ? random.sign() * infinity : shift + lse_factor * random.normal());
  }
  const Format& format = part.out.format();
  const double factor = random.one_of({1.0, 1e4, 1e-4, 0.1});
  const bool constant = random.chance(0.2);
  const double nothing = random.one_of({0.0, infinity, std::numeric_limits<double>::quiet_NaN()});
  for (int64_t n = 0; n < part.out.elements(); ++n) {
    const Tensor::Index i = part.out.index(n);
    const double x = factor * (constant ? 1 : random.normal());
    const bool empty = std::isinf(part.lse.get(lse_index(i, packed)));
    part.out.set(i, empty ? nothing : std::clamp(x, -format.largest(), format.largest()));
  }
}

// An infinite LSE of either sign is that of no keys.
double seen(double lse) { return std::isinf(lse) ? -infinity : lse; }

}  // namespace

void run_merge(uint64_t seed, uint64_t number, Count& count, Faults& faults) {
  Random random(seed, number);
  const Format& format = *random.one_of<const Format*>({&float32, &float16, &bfloat16});
  const std::string dtype = format.name;
  Judge judge(dtype, number, count, faults);
  const bool packed = random.chance(0.3);
  const bool plain = random.chance(0.3);
  const int64_t heads = random.integer(1, 6);
  const int64_t rows = random.size(1, 100);
  std::vector<int64_t> shape{rows, heads, 8 * random.size(1, max_head_dim / 8)};
  std::vector<int64_t> lse_shape{heads, rows};
  if (!packed) {
    const int64_t batch = random.integer(1, 3);
    shape.insert(shape.begin(), batch);
    lse_shape.insert(lse_shape.begin(), batch);
  }
  Part a, b, joined;
  for (Part* part : {&a, &b, &joined}) {
    part->out.create(random, format, shape, plain);
    part->lse.create(random, float32, lse_shape, plain);
  }
  fill(random, a, packed);
  fill(random, b, packed);
  joined.out.poison();
  joined.lse.poison();

  Expected out;
  Expected lse;
  out.reset(a.out);
  lse.reset(a.lse, -infinity);
  for (int64_t n = 0; n < a.out.elements(); ++n) {
    const Tensor::Index i = a.out.index(n);
    const Tensor::Index row = lse_index(i, packed);
    const double x = seen(a.lse.get(row));
    const double y = seen(b.lse.get(row));
    const double top = std::max(x, y);
    const auto e = static_cast<size_t>(n);
    const auto l = static_cast<size_t>(a.lse.number(row));
    if (top == -infinity) continue;
    const double both = top + std::log(std::exp(x - top) + std::exp(y - top));
    lse.exact[l] = lse.plain[l] = both;
    lse.size[l] = std::abs(both) + 1;
    // The arguments of exp may be off by this much in float32.
    const double off = float32.eps() / format.eps() * (std::abs(both) + 1);
    const double u = x == -infinity ? 0 : std::exp(x - both) * a.out.get(i);
    const double v = y == -infinity ? 0 : std::exp(y - both) * b.out.get(i);
    out.exact[e] = out.plain[e] = u + v;
    out.size[e] = std::max((std::abs(u) + std::abs(v)) * (1 + off), format.smallest_normal());
  }
  // The result may take a part's place.
  Part* to = random.chance(0.3) ? &a : random.chance(0.3) ? &b : &joined;
  const fa_status status = fa_merge(a.out.abi(), a.lse.abi(), b.out.abi(), b.lse.abi(),
                                    to->out.abi(), to->lse.abi(), nullptr);
  count.met["merge"] += 1;
  count.met["merge: in place"] += to == &joined ? 0 : 1;
  if (status != FA_OK) {
    judge.fault(std::string("fa_merge: ") + fa_last_error());
    return;
  }
  if (!to->out.canaries_hold() || !to->lse.canaries_hold()) {
    judge.fault("fa_merge: bytes beside the elements were written");
  }
  judge.compare("merged out", to->out, out, format.eps());
  judge.compare("merged lse", to->lse, lse, float32.eps());
}

}  // namespace judge
