// A large output is often fresh memory, whose pages the kernel maps when they are first written to.
// Threads at neighbouring heads of the same rows would fault on the same pages at once: 16 threads
// took four times as long for a forward pass of 512 keys. So each thread maps a share of the pages
// beforehand.
#pragma once

#include <algorithm>

#include "problem/problem.hpp"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fa::cpu {

/// Maps share `index` of `count` of the pages of a tensor with the rows of `side`. Does nothing for
/// tensors below `least_bytes`, nor for tensors with other data between their rows. Pages that are
/// mapped already stay as they are.
inline void map_pages([[maybe_unused]] const Rows& rows, [[maybe_unused]] const Side& side,
                      [[maybe_unused]] int64_t batch, [[maybe_unused]] int64_t width,
                      [[maybe_unused]] int64_t least_bytes, [[maybe_unused]] int64_t index,
                      [[maybe_unused]] int64_t count) {
#ifdef MADV_POPULATE_WRITE  // Linux 5.14; an older kernel refuses it, and pages come as they did
  if (rows.batch < 0 || rows.row < 0 || rows.head < 0) return;
  const int64_t length = side.packed ? side.tokens : side.seqlen;
  const int64_t bytes = side.tokens * side.heads * width * bytes_of(rows.dtype);
  if (bytes == 0 || bytes < least_bytes) return;  // an empty tensor may have any strides
  const int64_t last = rows.offset(side.packed ? 0 : batch - 1, length - 1, side.heads - 1);
  const int64_t span = (last + width) * bytes_of(rows.dtype);
  constexpr int64_t page = 4096;
  if (span > bytes || sysconf(_SC_PAGESIZE) != page) return;
  const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(rows.data) % page);
  char* first = rows.data - before;
  const int64_t pages = (before + span + page - 1) / page;
  const int64_t to = pages * (index + 1) / count;
  constexpr int64_t block = 512;
  unsigned char mapped[block];
  for (int64_t at = pages * index / count; at < to; at += block) {
    const int64_t n = std::min(block, to - at);
    char* address = first + at * page;
    // Asked first, since mapping what is mapped takes 0.1 us a page: 3% of a pass over 128 keys.
    if (mincore(address, n * page, mapped) != 0) return;
    const bool missing = std::any_of(mapped, mapped + n, [](auto flags) { return flags % 2 == 0; });
    if (missing) madvise(address, n * page, MADV_POPULATE_WRITE);
  }
#endif
}

}  // namespace fa::cpu
