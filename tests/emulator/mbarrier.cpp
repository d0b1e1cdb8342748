// Barriers that count arrivals and bytes. They are kept here; their 8 bytes of shared memory hold a
// mark, so that who overwrites one is noticed.
#include <cstring>

#include "emulator/block.hpp"

namespace emulator {

namespace {

constexpr char mark[8] = {'m', 'b', 'a', 'r', 'r', 'i', 'e', 'r'};
constexpr int64_t most = (1 << 20) - 1;  ///< arrivals, and bytes that are still to come

Mbarrier& find(Block& block, unsigned barrier) {
  const auto found = block.mbarriers.find(barrier);
  if (found == block.mbarriers.end()) stop("no mbarrier was made at the address");
  if (std::memcmp(block.shared + (barrier - shared_base), mark, sizeof mark) != 0) {
    stop("an mbarrier was overwritten");
  }
  return found->second;
}

void end_phase(Mbarrier& barrier) {
  if (barrier.bytes > most || barrier.bytes < -most) stop("an mbarrier cannot count the bytes");
  if (barrier.pending > 0) return;
  if (barrier.bytes < 0) stop("more bytes came to an mbarrier than its phase expects");
  if (barrier.bytes > 0) return;
  barrier.pending = barrier.arrivals;
  ++barrier.phase;
  for (Thread* thread : barrier.waiting) thread->state = State::ready;
  barrier.waiting.clear();
}

}  // namespace

void expect_fenced(Block& block, unsigned barrier) {
  if (!find(block, barrier).fenced) {
    stop("an mbarrier is used by a copy or another block, with no fence after it was made");
  }
}

void complete_bytes(Block& block, unsigned barrier, int bytes) {
  Mbarrier& found = find(block, barrier);
  found.bytes -= bytes;
  end_phase(found);
}

namespace mbarriers {

void init(unsigned barrier, int arrivals) {
  Block& block = *current->block;
  if (barrier % 8 != 0) stop("an mbarrier is not aligned to 8 bytes");
  if (arrivals < 1 || arrivals > most) stop("an mbarrier waits for 1 to 2^20 - 1 arrivals");
  std::memcpy(shared_at(barrier, sizeof mark), mark, sizeof mark);
  const auto [made, is_new] = block.mbarriers.try_emplace(barrier);
  if (!is_new) stop("an mbarrier is made twice");
  made->second.arrivals = made->second.pending = arrivals;
  made->second.maker = current;
}

void fence() {
  for (auto& [address, barrier] : current->block->mbarriers) {
    barrier.fenced = barrier.fenced || barrier.maker == current;
  }
}

void arrive(unsigned barrier, int expected_bytes) {
  pause();
  Block& block = block_of(barrier);
  shared_at(barrier, sizeof mark);
  if (&block != current->block) expect_fenced(block, own_address(barrier));
  Mbarrier& found = find(block, own_address(barrier));
  if (found.pending == 0) stop("more arrivals at an mbarrier than its phase waits for");
  found.bytes += expected_bytes;
  --found.pending;
  end_phase(found);
  pause();
}

void wait(unsigned barrier, unsigned parity) {
  Mbarrier& found = find(*current->block, barrier);
  while (found.phase % 2 == parity) {
    found.waiting.push_back(current);
    current->wait("an mbarrier");
  }
}

}  // namespace mbarriers

}  // namespace emulator
