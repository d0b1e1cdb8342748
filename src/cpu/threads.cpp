#include "cpu/threads.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <climits>

#include "cpu/cpu_quota.hpp"
#include "system/environment.hpp"

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

namespace fa::cpu {

namespace {

std::atomic<bool> forking_with_threads{false};
std::atomic<bool> lost{false};

void before_fork() {
#if __has_include(<sys/single_threaded.h>)
  forking_with_threads = __libc_single_threaded == 0;
#else
  forking_with_threads = true;
#endif
}

void in_child() {
  // mutant "one thread in a forked child" of fork_test: lost = true => false
  if (forking_with_threads) lost = true;
}

[[maybe_unused]] const int registered = pthread_atfork(before_fork, nullptr, in_child);

int quota() {
  if (!system::variable("OMP_NUM_THREADS").empty()) return INT_MAX;
  return cpu_quota("/").value_or(INT_MAX);
}

}  // namespace

bool threads_lost() { return lost; }

int default_threads() {
  if (lost || omp_in_parallel() != 0) return 1;
  static const int allowed = quota();
  return std::min({omp_get_max_threads(), omp_get_num_procs(), allowed});
}

}  // namespace fa::cpu
