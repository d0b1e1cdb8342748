#include "emulator/memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "emulator/run.hpp"

namespace emulator {

namespace {

constexpr size_t page = 4096, alignment = 256;

size_t round_up(size_t bytes, size_t size) { return (bytes + size - 1) / size * size; }

/// In the page before the memory's first; nobody reads it but release().
struct Mapping {
  void* begin;
  size_t bytes;
};
Mapping* mapping_of(void* memory) {
  const auto first = reinterpret_cast<uintptr_t>(memory) / page * page;
  return reinterpret_cast<Mapping*>(first - page);
}

}  // namespace

void* allocate(size_t bytes) {
  const size_t used = round_up(bytes == 0 ? 1 : bytes, alignment), pages = round_up(used, page);
  const size_t all = page + pages + page;
  void* mapped = mmap(nullptr, all, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* memory = static_cast<char*>(mapped) + page + pages - used;
  *mapping_of(memory) = {mapped, all};
  mprotect(mapped, page, PROT_NONE);
  mprotect(static_cast<char*>(mapped) + page + pages, page, PROT_NONE);
  std::memset(memory, poison, bytes);
  return memory;
}

void release(void* memory) {
  if (memory == nullptr) return;
  Mapping* mapping = mapping_of(memory);
  mprotect(mapping, page, PROT_READ);
  const Mapping known = *mapping;
  // Stays reserved, so that nobody gets the addresses again, but holds no memory any more.
  constexpr int anew = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(known.begin, known.bytes, PROT_NONE, anew, -1, 0) == MAP_FAILED) {
    munmap(known.begin, known.bytes);
  }
}

}  // namespace emulator
