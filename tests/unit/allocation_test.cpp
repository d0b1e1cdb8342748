// A planned run takes no memory from the heap.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

using fa::test::Floats;

TEST(PlannedRun, TakesNoMemory) {
  Floats q({2, 150, 4, 16}, 1), k({2, 300, 2, 16}, 1), v({2, 300, 2, 24}, 1);
  Floats out({2, 150, 4, 24}), lse({2, 4, 150}), dout({2, 150, 4, 24}, 1);
  Floats dq(q.shape), dk(k.shape), dv(v.shape), sinks({4}, 1), dsinks({4});
  fa::Options options;
  options.causal = true;
  options.sinks = sinks;
  const fa::ForwardArgs forward{q, k, v, out, lse};
  const fa::BackwardArgs backward{dout, q, k, v, out, lse, dq, dk, dv, {}, {}, dsinks};
  const fa::Plan first = fa::plan_forward(forward, options);
  const fa::Plan second = fa::plan_backward(backward, options);
  const size_t bytes = std::max(first.workspace_bytes(), second.workspace_bytes());
  std::vector<char> room(bytes + 64);
  void* workspace = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
  first.run(forward, options, workspace, bytes);  // the kernels of this CPU are looked up once
  second.run(backward, options, workspace, bytes);
  const long before = allocations;
  first.run(forward, options, workspace, bytes);
  second.run(backward, options, workspace, bytes);
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(before, 0) << "the counter counts";
}

}  // namespace
