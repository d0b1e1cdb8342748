// What runs: the threads of a cluster's blocks, and what they share.
#pragma once

#include <array>
#include <boost/context/fiber.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulator/kernels/emulator.hpp"
#include "emulator/transfer.hpp"
#include "emulator/warp_products.hpp"

namespace emulator {

/// Ends the program: a kernel is wrong.
[[noreturn]] void stop(const std::string& why);

enum class State { ready, waiting, done };

struct Block;
struct Cluster;

/// A copy by cp.async.
struct Copy {
  unsigned to;
  const void* from;
  int bytes;
  bool valid;
};

struct Thread {
  Block* block = nullptr;
  Index index{};
  State state = State::ready;
  const char* waits_for = "";
  boost::context::fiber fiber, caller;
  void (*operation)(void* const*) = nullptr;
  void* operand = nullptr;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::vector<std::shared_ptr<Transfer>> bulk_open;
  std::deque<std::vector<std::shared_ptr<Transfer>>> bulk_groups;
  uint32_t fences = 0;  ///< of its stores, so far
  bool at_cluster_barrier = false;
  unsigned cluster_phase = 0;

  void yield() { caller = std::move(caller).resume(); }
  void wait(const char* what) {
    waits_for = what;
    state = State::waiting;
    yield();
  }
};

/// Threads that meet: each comes with its operation and operands, the last does it for all.
template <size_t count>
struct Team {
  std::array<Thread*, count> lanes{};
  size_t arrived = 0;
};
struct Warp : Team<32> {
  WarpProducts products;
};
using WarpGroup = Team<128>;

struct Barrier {
  int arrived = 0;
  std::vector<Thread*> waiting;
};

struct Mbarrier {
  int arrivals = 0;  ///< of a phase
  int pending = 0;   ///< arrivals that the present phase waits for
  int64_t bytes = 0;
  unsigned phase = 0;
  bool fenced = false;  ///< copies and other blocks see it
  const Thread* maker = nullptr;
  std::vector<Thread*> waiting;
};

struct Block {
  Cluster* cluster = nullptr;
  unsigned rank = 0;  ///< in its cluster
  Index index{}, grid{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<WarpGroup> groups;
  Barrier barriers[16];
  std::map<unsigned, Mbarrier> mbarriers;  ///< by address
  bool any_so_far = false, any_result = false;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;
  int shared_bytes = 0;
  std::vector<uint32_t> stored_by;  ///< who stored 4 bytes of shared memory (shared_memory.cpp)
  long spins = 0;
  int running = 0;  ///< threads
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  std::mt19937* random = nullptr;
  std::vector<std::shared_ptr<Transfer>> transfers;  ///< under way
  int at_barrier = 0;
  unsigned barrier_phase = 0;
  std::vector<Thread*> waiting;

  unsigned draw(unsigned below) { return static_cast<unsigned>((*random)() % below); }
};

extern thread_local Thread* current;

/// Lets others go first, sometimes: where they may come between two steps of a thread.
void pause();

/// Meets the other lanes of the current warp, or warp group: the last to come calls `operation`
/// with what all of them brought. Stops where they came for different ones.
void meet_warp(void (*operation)(void* const*), void* mine);
void meet_group(void (*operation)(void* const*), void* mine);

/// Bytes of shared memory, checked: of the cluster's block that the address names, which runs
/// still.
char* shared_at(unsigned address, int bytes);
/// The block that an address names: the current one's own addresses name it.
Block& block_of(unsigned address);
/// The address by which the block itself knows the same byte.
constexpr unsigned own_address(unsigned address) { return address & ((1u << rank_shift) - 1); }

/// A copy or a product has to do with shared memory: stops where it reads what a thread has stored
/// and not fenced. What it writes nobody has stored any more.
void async_reads(Block& block, unsigned address, int bytes);
void async_writes(Block& block, unsigned address, int bytes);

/// Bytes have come that the phase waits for.
void complete_bytes(Block& block, unsigned barrier, int bytes);
/// Stops where a copy could not know the barrier.
void expect_fenced(Block& block, unsigned barrier);

/// One step of one copy, chosen at random; false where none is under way.
bool step_transfer(Cluster& cluster);
/// The scheduler has run a while: copies whose time has come go on.
void age_transfers(Cluster& cluster);

/// Stops where all threads of a block have ended too early.
void end_block(Block& block);

/// The parts of the runtime, by file.
namespace joins {
void barrier(int name, int threads, bool wait);
bool any(bool mine);
unsigned cluster_rank();
void cluster_arrive();
void cluster_wait();
void leave_cluster(Cluster& cluster);  ///< a thread has ended
}  // namespace joins
namespace copies {
void copy_async(unsigned to, const void* from, int bytes, bool valid);
void commit();
void wait(int pending);
void bulk_copy(const BulkCopy& copy);
void store_async(unsigned remote, uint4 value, unsigned remote_barrier);
void bulk_commit();
void bulk_wait(int pending, bool only_read);
}  // namespace copies
namespace memory {
void wrote(unsigned address, int bytes);
void fence_proxy();
const char* remote(unsigned address, int bytes);
}  // namespace memory
namespace mbarriers {
void init(unsigned barrier, int arrivals);
void fence();
void arrive(unsigned barrier, int expected_bytes);
void wait(unsigned barrier, unsigned parity);
}  // namespace mbarriers
namespace products {
void issue(const WarpGroupProduct& product);
void fence();
void commit();
void wait(int pending);
}  // namespace products

}  // namespace emulator
