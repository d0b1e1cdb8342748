// Values made once, by the first thread that asks for them; who asks meanwhile waits.
#pragma once

#include <exception>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "cuda/runtime/digest.hpp"

namespace fa::cuda {

template <typename Value>
class OncePer {
 public:
  using Shared = std::shared_ptr<const Value>;

  /// make(): a Value. What it throws reaches all who wait for it and is forgotten: the next call
  /// makes the value anew.
  template <typename Make>
  Shared get(const Digest& key, Make make) {
    if (const auto made = find(key); made.valid()) return made.get();
    std::promise<Shared> promise;
    if (const auto other = insert(key, promise); other.valid()) return other.get();
    try {
      auto value = std::make_shared<const Value>(make());
      promise.set_value(value);
      return value;
    } catch (...) {
      forget(key);
      promise.set_exception(std::current_exception());
      throw;
    }
  }

  void forget(const Digest& key) {
    const std::unique_lock lock(mutex_);
    values_.erase(key);
  }

 private:
  using Future = std::shared_future<Shared>;

  Future find(const Digest& key) const {
    const std::shared_lock lock(mutex_);
    const auto found = values_.find(key);
    return found == values_.end() ? Future() : found->second;
  }

  /// The future of another thread that was first, or an invalid one.
  Future insert(const Digest& key, std::promise<Shared>& promise) {
    const std::unique_lock lock(mutex_);
    const auto [place, is_first] = values_.try_emplace(key, promise.get_future().share());
    return is_first ? Future() : place->second;
  }

  mutable std::shared_mutex mutex_;
  std::map<Digest, Future> values_;
};

}  // namespace fa::cuda
