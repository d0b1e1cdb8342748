// Copies that a thread does not wait for. Those of cp.async arrive when they are waited for. Bulk
// and tensor copies read their source and write their target at random times of their own; what
// they write to is poisoned as soon as they are begun, for nobody may count on it any more.
#include <algorithm>
#include <cstring>

#include "emulator/block.hpp"
#include "emulator/run.hpp"
#include "emulator/tensor_map.hpp"

namespace emulator {

namespace {

unsigned patience(Cluster& cluster) {
  return cluster.draw(4) == 0 ? cluster.draw(4) : cluster.draw(1u << cluster.draw(10));
}

void begin(const std::shared_ptr<Transfer>& transfer) {
  Cluster& cluster = *current->block->cluster;
  for (const auto& other : cluster.transfers) {
    const bool reads = !other->has_read && transfer->target.meets(other->source);
    const bool writes = !other->done && (transfer->target.meets(other->target) ||
                                         transfer->source.meets(other->target));
    if (reads || writes) stop("a copy meets the shared memory of another that is under way");
  }
  const SharedRange& target = transfer->target;
  if (target.block != nullptr) {
    std::memset(target.block->shared + (target.begin - shared_base), poison, target.bytes);
    async_writes(*target.block, target.begin, static_cast<int>(target.bytes));
  }
  if (cluster.draw(2) == 0) transfer->step();
  transfer->patience = patience(cluster);
  cluster.transfers.push_back(transfer);
}

SharedRange range(unsigned address, int bytes) {
  shared_at(address, bytes);
  return {&block_of(address), own_address(address), static_cast<unsigned>(bytes)};
}
char* memory_of(const SharedRange& range) {
  return range.block->shared + (range.begin - shared_base);
}

void set_shared_source(Transfer& transfer, SharedRange from) {
  transfer.source = from;
  transfer.read = [from](std::vector<char>& bytes) {
    async_reads(*from.block, from.begin, static_cast<int>(from.bytes));
    bytes.assign(memory_of(from), memory_of(from) + from.bytes);
  };
}
void set_shared_target(Transfer& transfer, SharedRange to, unsigned barrier) {
  const unsigned own = own_address(barrier);
  if (&block_of(barrier) != to.block) stop("a copy's mbarrier is of another block than its target");
  expect_fenced(*to.block, own);
  transfer.target = to;
  transfer.write = [to, own](const std::vector<char>& bytes) {
    std::memcpy(memory_of(to), bytes.data(), to.bytes);
    complete_bytes(*to.block, own, static_cast<int>(to.bytes));
  };
}

void add_floats(char* to, const char* from, int bytes) {
  for (int i = 0; i < bytes; i += 4) {
    float sum, more;
    std::memcpy(&sum, to + i, 4);
    std::memcpy(&more, from + i, 4);
    sum += more;
    std::memcpy(to + i, &sum, 4);
  }
}

/// One piece of bytes.
void form_piece(Transfer& transfer, const BulkCopy& copy) {
  using Way = BulkCopy::Way;
  const auto global = reinterpret_cast<uintptr_t>(copy.global);
  if (copy.bytes <= 0 || (copy.bytes | copy.shared | copy.remote | global) % 16 != 0) {
    stop("a bulk copy is not of 16-byte pieces");
  }
  const auto size = static_cast<size_t>(copy.bytes);
  char* const there = static_cast<char*>(copy.global);
  if (copy.way == Way::load) {
    transfer.read = [=](std::vector<char>& bytes) { bytes.assign(there, there + size); };
    return set_shared_target(transfer, range(copy.shared, copy.bytes), copy.barrier);
  }
  set_shared_source(transfer, range(copy.shared, copy.bytes));
  if (copy.way == Way::to_block) {
    set_shared_target(transfer, range(copy.remote, copy.bytes), copy.barrier);
  } else if (copy.way == Way::store) {
    transfer.write = [=](const std::vector<char>& bytes) {
      std::memcpy(there, bytes.data(), size);
    };
  } else {
    transfer.write = [=](const std::vector<char>& bytes) {
      add_floats(there, bytes.data(), static_cast<int>(size));
    };
  }
}

/// A box. `bytes` has it as it lies in shared memory.
void form_box(Transfer& transfer, const BulkCopy& copy) {
  using Way = BulkCopy::Way;
  const Box box(copy.map, copy.at, copy.rank);
  const auto swizzle = box.swizzle();
  const unsigned alignment = swizzle == fa::kernel::Swizzle::none
                                 ? 128
                                 : 8 * static_cast<unsigned>(fa::kernel::line_bytes(swizzle));
  if (copy.shared % alignment != 0) stop("a tensor copy's box is not aligned in shared memory");
  const SharedRange here = range(copy.shared, box.bytes());
  const auto place = [begin = here.begin, swizzle](int offset) {
    return fa::kernel::swizzled(begin + static_cast<unsigned>(offset), swizzle) - begin;
  };
  const auto element = static_cast<size_t>(box.element_bytes());
  if (copy.way == Way::load) {
    transfer.read = [=](std::vector<char>& bytes) {
      bytes.assign(here.bytes, 0);
      box.each([&](int offset, const char* global) {
        if (global != nullptr) std::memcpy(&bytes[place(offset)], global, element);
      });
    };
    return set_shared_target(transfer, here, copy.barrier);
  }
  if (copy.way == Way::add && element != 4) stop("only float32 tensors are added to");
  set_shared_source(transfer, here);
  transfer.write = [=, adds = copy.way == Way::add](const std::vector<char>& bytes) {
    box.each([&](int offset, char* global) {
      if (global == nullptr) return;
      const char* from = &bytes[place(offset)];
      adds ? add_floats(global, from, 4) : static_cast<void>(std::memcpy(global, from, element));
    });
  };
}

}  // namespace

bool step_transfer(Cluster& cluster) {
  auto& all = cluster.transfers;
  if (all.empty()) return false;
  const auto& chosen = all[cluster.draw(static_cast<unsigned>(all.size()))];
  chosen->step();
  std::erase_if(all, [](const auto& transfer) { return transfer->done; });
  return true;
}

void age_transfers(Cluster& cluster) {
  for (const auto& transfer : cluster.transfers) {
    if (transfer->done || transfer->patience-- > 0) continue;
    transfer->step();
    transfer->patience = patience(cluster);
  }
  std::erase_if(cluster.transfers, [](const auto& transfer) { return transfer->done; });
}

namespace copies {

void copy_async(unsigned to, const void* from, int bytes, bool valid) {
  current->open.push_back({to, from, bytes, valid});
}
void commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void wait(int pending) {
  Thread& me = *current;
  for (; me.groups.size() > static_cast<size_t>(pending); me.groups.pop_front()) {
    for (const Copy& copy : me.groups.front()) {
      char* to = me.block->shared + (copy.to - shared_base);
      copy.valid ? std::memcpy(to, copy.from, static_cast<size_t>(copy.bytes))
                 : std::memset(to, 0, static_cast<size_t>(copy.bytes));
      memory::wrote(copy.to, copy.bytes);
    }
  }
}

void bulk_copy(const BulkCopy& copy) {
  pause();
  auto transfer = std::make_shared<Transfer>();
  copy.map == nullptr ? form_piece(*transfer, copy) : form_box(*transfer, copy);
  begin(transfer);
  using Way = BulkCopy::Way;
  if (copy.way == Way::store || copy.way == Way::add) current->bulk_open.push_back(transfer);
  pause();
}

void store_async(unsigned remote, uint4 value, unsigned remote_barrier) {
  pause();
  if (remote % 16 != 0) stop("st.async is not aligned to 16 bytes");
  auto transfer = std::make_shared<Transfer>();
  transfer->read = [value](std::vector<char>& bytes) {
    bytes.resize(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
  };
  set_shared_target(*transfer, range(remote, sizeof value), remote_barrier);
  begin(transfer);
}

void bulk_commit() {
  current->bulk_groups.push_back(std::move(current->bulk_open));
  current->bulk_open.clear();
}

void bulk_wait(int pending, bool only_read) {
  auto& groups = current->bulk_groups;
  for (size_t i = 0; i + static_cast<size_t>(pending) < groups.size(); ++i) {
    for (const auto& transfer : groups[i]) {
      while (only_read ? !transfer->has_read : !transfer->done) transfer->step();
      transfer->waited_for = true;
    }
  }
  while (!only_read && groups.size() > static_cast<size_t>(pending)) groups.pop_front();
}

}  // namespace copies

}  // namespace emulator
