// Shared memory of a cluster's blocks: addresses, and who has stored what copies must not see yet.
#include "emulator/block.hpp"

namespace emulator {

namespace {

// Who stored: the thread's number plus 1, and how often it had fenced by then.
constexpr int number_bits = 11;
uint32_t stored_by(const Thread& thread) {
  return thread.fences << number_bits | (thread.index.x + 1);
}
bool unfenced(const Block& block, uint32_t by) {
  const uint32_t number = by & ((1u << number_bits) - 1);
  return number != 0 && stored_by(block.threads[number - 1]) == by;
}

unsigned first_word(unsigned address) { return (address - shared_base) / 4; }
unsigned end_word(unsigned address, int bytes) {
  return (address - shared_base + static_cast<unsigned>(bytes) + 3) / 4;
}

}  // namespace

Block& block_of(unsigned address) {
  const unsigned rank = address >> rank_shift;
  Cluster& cluster = *current->block->cluster;
  if (rank == 0) return *current->block;
  if (rank > cluster.blocks.size()) stop("an address of a block that its cluster does not have");
  return *cluster.blocks[rank - 1];
}

char* shared_at(unsigned address, int bytes) {
  Block& block = block_of(address);
  const int64_t offset = static_cast<int64_t>(own_address(address)) - shared_base;
  if (offset < 0 || offset + bytes > block.shared_bytes) {
    stop("an address outside of a block's shared memory");
  }
  if (block.running == 0) stop("a block has ended whose shared memory another one uses");
  return block.shared + offset;
}

void async_reads(Block& block, unsigned address, int bytes) {
  for (unsigned i = first_word(address), end = end_word(address, bytes); i < end; ++i) {
    if (unfenced(block, block.stored_by[i])) {
      stop("a copy or wgmma reads what a thread has stored without fence.proxy.async");
    }
  }
}

void async_writes(Block& block, unsigned address, int bytes) {
  for (unsigned i = first_word(address), end = end_word(address, bytes); i < end; ++i) {
    block.stored_by[i] = 0;
  }
}

namespace memory {

void wrote(unsigned address, int bytes) {
  Block& block = *current->block;
  const uint32_t by = stored_by(*current);
  const auto end = std::min<size_t>(end_word(address, bytes), block.stored_by.size());
  for (size_t i = first_word(address); i < end; ++i) block.stored_by[i] = by;
}

void fence_proxy() {
  ++current->fences;
  mbarriers::fence();
}

const char* remote(unsigned address, int bytes) {
  pause();
  return shared_at(address, bytes);
}

}  // namespace memory

}  // namespace emulator
