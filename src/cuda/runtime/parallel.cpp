#include "cuda/runtime/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fa::cuda {

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body) {
  const int64_t wanted = threads > 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      try {
        body(i);
      } catch (...) {
        next = count;
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> others;
    try {
      for (int64_t t = 1; t < std::min(wanted, count); ++t) others.emplace_back(work);
    } catch (const std::system_error& error) {
      static_cast<void>(error);  // no more threads to be had: those there are do it all
    }
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fa::cuda
