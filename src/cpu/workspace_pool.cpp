#include "cpu/workspace_pool.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "fa/attention.hpp"

namespace fa::cpu {

namespace {

struct Block {
  void* data;
  size_t bytes;
};

// More idle blocks than this are freed: a program that ran on many threads once does not keep
// their memory for good.
constexpr size_t max_idle = 8;

struct Pool {
  Pool() { idle.reserve(max_idle); }  // giving a block back never allocates, so never throws
  std::mutex mutex;
  std::vector<Block> idle;  // smallest first
};

Pool& pool();

/// Forks wait for the lock: a child does not have the thread that holds it.
Pool* make_pool() {
  auto* made = new Pool;  // never destroyed: threads may still call at exit
  const auto unlock = [] { pool().mutex.unlock(); };
  if (pthread_atfork([] { pool().mutex.lock(); }, unlock, unlock) != 0) {
    delete made;
    throw std::bad_alloc();
  }
  return made;
}

Pool& pool() {
  static Pool* instance = make_pool();
  return *instance;
}

}  // namespace

Workspace::Workspace(size_t bytes) : data_(nullptr), bytes_(bytes) {
  if (bytes == 0) return;
  {
    const std::lock_guard lock(pool().mutex);
    auto& idle = pool().idle;
    const auto fit = std::find_if(idle.begin(), idle.end(),
                                  [&](const Block& block) { return block.bytes >= bytes; });
    if (fit != idle.end()) {
      data_ = fit->data;
      bytes_ = fit->bytes;
      idle.erase(fit);
      return;
    }
    if (!idle.empty()) {  // the largest is too small: it makes room for its successor
      std::free(idle.back().data);
      idle.pop_back();
    }
  }
  bytes_ = (bytes + 63) / 64 * 64;
  data_ = std::aligned_alloc(64, bytes_);
  if (data_ == nullptr) {
    throw Error(Status::out_of_memory, fmt::format("no memory for a workspace of {} bytes", bytes));
  }
}

Workspace::~Workspace() {
  if (data_ == nullptr) return;
  const std::lock_guard lock(pool().mutex);
  auto& idle = pool().idle;
  if (idle.size() >= max_idle) {
    std::free(data_);
    return;
  }
  const auto place = std::find_if(idle.begin(), idle.end(),
                                  [&](const Block& block) { return block.bytes >= bytes_; });
  idle.insert(place, {data_, bytes_});
}

void release_workspaces() {
  const std::lock_guard lock(pool().mutex);
  for (const Block& block : pool().idle) std::free(block.data);
  pool().idle.clear();
}

}  // namespace fa::cpu
