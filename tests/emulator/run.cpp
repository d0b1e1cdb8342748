// A kernel's blocks, one after the other, each thread a fiber. What it is strict about: warps run
// in random order between instructions that join them, asynchronous copies arrive only when they
// are waited for, and shared memory holds NaN at first. So most missing barriers and waits show as
// wrong results. What does not show: a copy begun too early, whatever happens between blocks, and
// time.
#include "emulator/run.hpp"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "emulator/kernels/emulator.hpp"

namespace emulator {
namespace {

namespace context = boost::context;

constexpr size_t stack_bytes = 256 << 10;
constexpr size_t shared_guard = 4096;  // behind a block's shared memory

[[noreturn]] void stop(const char* why) {
  std::fprintf(stderr, "emulator: %s\n", why);
  std::abort();
}

struct Copy {
  unsigned to;
  const void* from;
  int bytes;
  bool valid;
};

enum class State { ready, waiting, done };

struct Block;

struct Thread {
  Block* block = nullptr;
  Index index{};
  State state = State::ready;
  context::fiber fiber, caller;
  void (*operation)(void* const*) = nullptr;
  void* operand = nullptr;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;

  void yield() { caller = std::move(caller).resume(); }
};

struct Warp {
  Thread* lanes[32];
  int arrived = 0;
};

struct Barrier {
  int arrived = 0;
  std::vector<Thread*> waiting;
};

struct Block {
  Index index{}, grid{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  bool any_so_far = false, any_result = false;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;
  long spins = 0;
};

thread_local Thread* current;

const Index& thread_index() { return current->index; }
const Index& block_index() { return current->block->index; }
const Index& grid_size() { return current->block->grid; }
char* shared() { return current->block->shared; }

void warp_operation(void (*operation)(void* const*), void* mine) {
  Thread& me = *current;
  Warp& warp = me.block->warps[me.index.x / 32];
  me.operation = operation;
  me.operand = mine;
  if (++warp.arrived < 32) {
    me.state = State::waiting;
    return me.yield();
  }
  warp.arrived = 0;
  void* operands[32];
  for (int i = 0; i < 32; ++i) {
    if (warp.lanes[i]->operation != operation) stop("lanes of a warp have parted");
    operands[i] = warp.lanes[i]->operand;
  }
  operation(operands);
  for (Thread* lane : warp.lanes) lane->state = State::ready;
}

void barrier(int name, int threads, bool wait) {
  Thread& me = *current;
  Barrier& barrier = me.block->barriers[name];
  if (threads == 0) threads = static_cast<int>(me.block->threads.size());
  const bool last = ++barrier.arrived == threads;
  if (barrier.arrived > threads) stop("too many threads at a barrier");
  if (last) {
    for (Thread* other : barrier.waiting) other->state = State::ready;
    barrier = {};
  } else if (wait) {
    barrier.waiting.push_back(&me);
    me.state = State::waiting;
    me.yield();
  }
}

bool any(bool mine) {
  Block& block = *current->block;
  block.any_so_far = block.any_so_far || mine;
  if (block.barriers[0].arrived + 1 == static_cast<int>(block.threads.size())) {
    block.any_result = block.any_so_far;
    block.any_so_far = false;
  }
  barrier(0, 0, true);
  return block.any_result;
}

void copy_async(unsigned to, const void* from, int bytes, bool valid) {
  current->open.push_back({to, from, bytes, valid});
}
void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void wait_copies(int pending) {
  Thread& me = *current;
  for (; me.groups.size() > static_cast<size_t>(pending); me.groups.pop_front()) {
    for (const Copy& copy : me.groups.front()) {
      char* to = me.block->shared + copy.to;
      copy.valid ? std::memcpy(to, copy.from, static_cast<size_t>(copy.bytes))
                 : std::memset(to, 0, static_cast<size_t>(copy.bytes));
    }
  }
}

void spin() {
  if (++current->block->spins > 100000) stop("a block waits for one that comes later");
  current->yield();
}

/// Runs one block's threads to their ends.
void run_block(Block& block, Call call, const void* parameters, std::mt19937& random) {
  thread_local context::pooled_fixedsize_stack stacks(stack_bytes);
  for (Thread& thread : block.threads) {
    thread.fiber = context::fiber(std::allocator_arg, stacks, [&](context::fiber&& caller) {
      thread.caller = std::move(caller);
      call(parameters);
      if (!thread.open.empty()) stop("copies were begun that nobody can wait for");
      thread.state = State::done;
      return std::move(thread.caller);
    });
  }
  std::vector<Warp*> runnable;
  for (;;) {
    runnable.clear();
    bool all_done = true;
    for (Warp& warp : block.warps) {
      bool ready = false;
      for (const Thread* lane : warp.lanes) {
        ready = ready || lane->state == State::ready;
        all_done = all_done && lane->state == State::done;
      }
      if (ready) runnable.push_back(&warp);
    }
    if (all_done) return;
    if (runnable.empty()) stop("threads of a block wait for each other");
    Warp& warp = *runnable[random() % runnable.size()];
    // A while at a time, or the choice would take longer than the work.
    for (unsigned turns = 1 + random() % 64; turns > 0; --turns) {
      bool any_ready = false;
      for (Thread* lane : warp.lanes) {
        if (lane->state != State::ready) continue;
        any_ready = true;
        current = lane;
        lane->fiber = std::move(lane->fiber).resume();
      }
      if (!any_ready) break;
    }
  }
}

}  // namespace

const Runtime the_runtime{thread_index, block_index, grid_size,  warp_operation,
                          barrier,      shared,      copy_async, commit_copies,
                          wait_copies,  any,         spin};

void launch(Call call, Index grid, unsigned threads, size_t shared_bytes, const void* parameters) {
  if (threads % 32 != 0) stop("a block's threads are no whole warps");
  std::mt19937 random(1);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        Block block;
        block.index = {x, y, z};
        block.grid = grid;
        block.threads.resize(threads);
        block.warps.resize(threads / 32);
        for (unsigned i = 0; i < threads; ++i) {
          block.threads[i].block = &block;
          block.threads[i].index = {i, 0, 0};
          block.warps[i / 32].lanes[i % 32] = &block.threads[i];
        }
        const size_t bytes = shared_bytes + shared_guard;
        block.memory = std::make_unique<char[]>(bytes + 128);
        const auto address = reinterpret_cast<uintptr_t>(block.memory.get());
        block.shared = block.memory.get() + (128 - address % 128) % 128;
        std::memset(block.shared, poison, bytes);
        run_block(block, call, parameters, random);
        for (size_t i = shared_bytes; i < bytes; ++i) {
          if (block.shared[i] != poison) stop("written behind a block's shared memory");
        }
      }
    }
  }
}

}  // namespace emulator
