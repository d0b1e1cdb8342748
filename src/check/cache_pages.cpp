#include "check/cache_pages.hpp"

#include <limits>
#include <utility>

namespace fa::check {

CachePages::CachePages(const Spec& spec, Random& random) {
  if (spec.page_size == 0) return;
  shape = {spec.batch, spec.keys.seqlen / spec.page_size};
  count = shape[0] * shape[1] + random.between(1, 3);
  std::vector<int32_t> free;  // taken from the end
  for (int32_t page = 0; page < count; ++page) {
    free.push_back(page);
    std::swap(free.back(), free[static_cast<size_t>(random.below(page + 1))]);
  }
  constexpr int32_t most = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> numbers(static_cast<size_t>(shape[0] * shape[1]));
  for (int32_t& number : numbers) number = random.pick({-1, -most, most});
  for (int64_t b = 0; b < shape[0]; ++b) {
    int32_t* own = numbers.data() + b * shape[1];
    const auto has = [&](int64_t sequence, int64_t page) {
      return sequence >= 0 && page * spec.page_size < spec.keys.length(sequence);
    };
    const int64_t shared = random.chance(0.3) ? random.between(0, shape[1]) : 0;
    for (int64_t n = 0; has(b, n); ++n) {
      if (n < shared && has(b - 1, n)) {
        own[n] = own[n - shape[1]];
      } else {
        own[n] = free.back();
        free.pop_back();
      }
    }
  }
  table = IntArray<int32_t>(std::move(numbers));
}

Tensor CachePages::tensor() const {
  Tensor t = table.tensor();
  t.ndim = 2;
  t.shape = shape.data();
  return t;
}

std::vector<bool> CachePages::counting_rows(const Spec& spec) const {
  std::vector<bool> counts(static_cast<size_t>(count * spec.page_size));
  const auto* numbers = static_cast<const int32_t*>(table.tensor().data);
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t j = 0; j < spec.keys.length(b); ++j) {
      const int64_t page = numbers[b * shape[1] + j / spec.page_size];
      counts[static_cast<size_t>(page * spec.page_size + j % spec.page_size)] = true;
    }
  }
  return counts;
}

}  // namespace fa::check
