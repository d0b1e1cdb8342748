// A kernel's clusters, one after the other, each thread a fiber. Its warps run in random order
// between instructions that join them, and its copies arrive at random times (docs/emulator.md).
#include "emulator/run.hpp"

#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator/block.hpp"

namespace emulator {

void stop(const std::string& why) {
  std::fprintf(stderr, "emulator: %s\n", why.c_str());
  std::abort();
}

thread_local Thread* current;

void pause() {
  if (current->block->cluster->draw(4) == 0) current->yield();
}

namespace {

namespace context = boost::context;

constexpr size_t stack_bytes = 256 << 10;
constexpr int shared_guard = 4096;     // behind a block's shared memory
constexpr long most_spins = 10000000;  // of a block: a second; a copy may take a million

const Index& thread_index() { return current->index; }
const Index& block_index() { return current->block->index; }
const Index& grid_size() { return current->block->grid; }
char* shared() { return current->block->shared; }

void spin() {
  if (++current->block->spins > most_spins) stop("a block waits for one that comes later");
  current->yield();
}

/// Stops where a thread leaves something under way behind.
void end_thread(Thread& thread) {
  if (!thread.open.empty() || !thread.bulk_open.empty()) {
    stop("copies were begun that nobody can wait for");
  }
  for (const auto& group : thread.bulk_groups) {
    for (const auto& copy : group) {
      if (!copy->waited_for) stop("a thread ends before its copies have read shared memory");
    }
  }
  const WarpProducts& products = thread.block->warps[thread.index.x / 32].products;
  if (!products.sums.empty()) stop("a thread ends before its products by wgmma");
  if (thread.at_cluster_barrier) stop("a thread ends that has not waited at its cluster's barrier");
  thread.state = State::done;
  Block& block = *thread.block;
  if (--block.running == 0) end_block(block);
  joins::leave_cluster(*block.cluster);
}

[[noreturn]] void stop_for_waiting(const Cluster& cluster) {
  std::map<std::string, int> waiting;
  for (const auto& block : cluster.blocks) {
    for (const Thread& thread : block->threads) {
      if (thread.state == State::waiting) ++waiting[thread.waits_for];
    }
  }
  std::string text = "threads of a block wait for each other:";
  for (const auto& [what, count] : waiting) {
    text.append(" ").append(std::to_string(count)).append(" for ").append(what).append(";");
  }
  stop(text);
}

/// Warps of which some lane could go on. None where all are done.
std::vector<Warp*> runnable_warps(Cluster& cluster, bool& all_done) {
  std::vector<Warp*> runnable;
  all_done = true;
  for (const auto& block : cluster.blocks) {
    all_done = all_done && block->running == 0;
    for (Warp& warp : block->warps) {
      for (const Thread* lane : warp.lanes) {
        if (lane->state != State::ready) continue;
        runnable.push_back(&warp);
        break;
      }
    }
  }
  return runnable;
}

/// A while at a time, or the choice would take longer than the work.
void run_warp(Warp& warp, unsigned turns) {
  for (; turns > 0; --turns) {
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

/// Runs the threads of a cluster's blocks to their ends.
void run_cluster(Cluster& cluster, Call call, const void* parameters) {
  thread_local context::pooled_fixedsize_stack stacks(stack_bytes);
  for (const auto& block : cluster.blocks) {
    for (Thread& thread : block->threads) {
      thread.fiber = context::fiber(std::allocator_arg, stacks, [&](context::fiber&& caller) {
        thread.caller = std::move(caller);
        call(parameters);
        end_thread(thread);
        return std::move(thread.caller);
      });
    }
  }
  for (;;) {
    bool all_done;
    const std::vector<Warp*> runnable = runnable_warps(cluster, all_done);
    if (all_done) break;
    if (runnable.empty()) {
      if (!step_transfer(cluster)) stop_for_waiting(cluster);
      continue;
    }
    const auto chosen = cluster.draw(static_cast<unsigned>(runnable.size()));
    run_warp(*runnable[chosen], 1 + cluster.draw(64));
    age_transfers(cluster);
  }
  while (step_transfer(cluster)) {
  }
}

std::unique_ptr<Block> make_block(Cluster& cluster, unsigned rank, Index index,
                                  const Launch& shape) {
  auto block = std::make_unique<Block>();
  block->cluster = &cluster;
  block->rank = rank;
  block->index = index;
  block->grid = shape.grid;
  block->threads.resize(shape.threads);
  block->running = static_cast<int>(shape.threads);
  block->warps.resize(shape.threads / 32);
  block->groups.resize(shape.threads / 128);
  for (unsigned i = 0; i < shape.threads; ++i) {
    Thread& thread = block->threads[i];
    thread.block = block.get();
    thread.index = {i, 0, 0};
    block->warps[i / 32].lanes[i % 32] = &thread;
    if (i / 128 < block->groups.size()) block->groups[i / 128].lanes[i % 128] = &thread;
  }
  block->shared_bytes = static_cast<int>(shape.shared_bytes);
  block->stored_by.resize(shape.shared_bytes / 4 + 1);
  const size_t bytes = shape.shared_bytes + shared_guard;
  block->memory = std::make_unique<char[]>(bytes + 128);
  const auto address = reinterpret_cast<uintptr_t>(block->memory.get());
  block->shared = block->memory.get() + (128 - address % 128) % 128;
  std::memset(block->shared, poison, bytes);
  return block;
}

}  // namespace

void end_block(Block& block) {
  for (const auto& transfer : block.cluster->transfers) {
    const bool reads = !transfer->has_read && transfer->source.block == &block;
    if (reads || (!transfer->done && transfer->target.block == &block)) {
      stop("a block ends while a copy has to do with its shared memory");
    }
  }
  for (const auto& [address, barrier] : block.mbarriers) {
    if (barrier.bytes != 0) stop("a block ends, and an mbarrier's bytes do not come out even");
  }
  for (int i = block.shared_bytes; i < block.shared_bytes + shared_guard; ++i) {
    if (block.shared[i] != poison) stop("written behind a block's shared memory");
  }
}

const Runtime the_runtime{
    .thread_index = thread_index,
    .block_index = block_index,
    .grid_size = grid_size,
    .shared = shared,
    .spin = spin,
    .warp = meet_warp,
    .barrier = joins::barrier,
    .any = joins::any,
    .copy_async = copies::copy_async,
    .commit_copies = copies::commit,
    .wait_copies = copies::wait,
    .wrote = memory::wrote,
    .fence_proxy = memory::fence_proxy,
    .mbarrier_init = mbarriers::init,
    .fence_mbarriers = mbarriers::fence,
    .mbarrier_arrive = mbarriers::arrive,
    .mbarrier_wait = mbarriers::wait,
    .bulk_copy = copies::bulk_copy,
    .store_async = copies::store_async,
    .bulk_commit = copies::bulk_commit,
    .bulk_wait = copies::bulk_wait,
    .wgmma = products::issue,
    .wgmma_fence = products::fence,
    .wgmma_commit = products::commit,
    .wgmma_wait = products::wait,
    .cluster_rank = joins::cluster_rank,
    .cluster_arrive = joins::cluster_arrive,
    .cluster_wait = joins::cluster_wait,
    .remote = memory::remote,
};

void launch(Call call, const Launch& shape, const void* parameters) {
  if (shape.threads % 32 != 0) stop("a block's threads are no whole warps");
  if (shape.cluster == 0 || shape.grid.x % shape.cluster != 0) {
    stop("a grid's blocks along x are no whole clusters");
  }
  std::mt19937 random(shape.seed);
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) {
        Cluster cluster;
        cluster.random = &random;
        for (unsigned rank = 0; rank < shape.cluster; ++rank) {
          cluster.blocks.push_back(make_block(cluster, rank, {x + rank, y, z}, shape));
        }
        run_cluster(cluster, call, parameters);
      }
    }
  }
}

}  // namespace emulator
