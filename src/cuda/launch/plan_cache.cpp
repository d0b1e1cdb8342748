// Plans of the convenience calls, kept by problem: planning anew costs some 20 us.
#include <mutex>
#include <shared_mutex>
#include <string_view>
#include <unordered_map>

#include "cuda/launch/passes.hpp"

namespace fa::cuda {

namespace {

/// A program that never repeats a shape does not fill the memory with plans.
constexpr size_t max_plans = 4096;

/// Hashes the shapes only, because a program uses few sets of options with each.
struct Hash {
  size_t operator()(const Problem& p) const {
    size_t hash = 0;
    const auto mix = [&](int64_t value) {
      hash = (hash ^ static_cast<size_t>(value)) * 0x9e3779b97f4a7c15;
      hash ^= hash >> 32;
    };
    for (const int64_t value :
         {p.batch, p.q.heads, p.k.heads, p.head_dim, p.head_dim_v, p.q.seqlen, p.k.seqlen,
          p.q.tokens, p.k.tokens, p.score.window_left, p.score.window_right}) {
      mix(value);
    }
    mix(p.device.id << 16 | p.dtype.code << 8 | p.alignment);
    return hash;
  }
};

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<Problem, std::shared_ptr<const Planned>, Hash> plans;
};

Cache& cache() {
  static auto* instance = new Cache;  // never destroyed: threads may still call at exit
  return *instance;
}

}  // namespace

std::shared_ptr<const Planned> plan_once(const Problem& problem) {
  Cache& kept = cache();
  {
    const std::shared_lock lock(kept.mutex);
    const auto found = kept.plans.find(problem);
    if (found != kept.plans.end()) return found->second;
  }
  auto made = plan(problem);
  const std::unique_lock lock(kept.mutex);
  if (kept.plans.size() >= max_plans) kept.plans.clear();
  return kept.plans.try_emplace(problem, std::move(made)).first->second;
}

}  // namespace fa::cuda
