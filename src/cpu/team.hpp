// The threads that work on a pass. A single thread makes no parallel region, because OpenMP's
// runtime would allocate for it and ends the process when memory is out.
#pragma once

#include <omp.h>

#include <cstdint>

namespace fa::cpu {

class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}

  int threads() const { return threads_; }
  /// The calling thread's number, from 0 on.
  int number() const { return alone() ? 0 : omp_get_thread_num(); }

  /// body() on each thread.
  template <typename Body>
  void run(const Body& body) const {
    if (alone()) return body();
#pragma omp parallel num_threads(threads_)
    body();
  }

  // To be called in a body of `run`: body(0) .. body(count - 1), shared out among the threads. No
  // thread waits at the end.

  template <typename Body>
  void evenly(int64_t count, const Body& body) const {
    if (alone()) return all(count, body);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < count; ++i) body(i);
  }
  template <typename Body>
  void in_turn(int64_t count, const Body& body) const {
    if (alone()) return all(count, body);
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < count; ++i) body(i);
  }

  /// Waits for all threads; the caller then sees what they have written.
  void barrier() const {
    if (alone()) return;
#pragma omp barrier
  }

 private:
  bool alone() const { return threads_ == 1; }
  template <typename Body>
  static void all(int64_t count, const Body& body) {
    for (int64_t i = 0; i < count; ++i) body(i);
  }

  int threads_;
};

}  // namespace fa::cpu
