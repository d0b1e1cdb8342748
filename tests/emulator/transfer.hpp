// A bulk or tensor copy under way.
#pragma once

#include <functional>
#include <vector>

namespace emulator {

struct Block;

/// Bytes of a block's shared memory.
struct SharedRange {
  Block* block = nullptr;  ///< none: global memory
  unsigned begin = 0, bytes = 0;

  bool meets(const SharedRange& other) const {
    return block != nullptr && block == other.block && begin < other.begin + other.bytes &&
           other.begin < begin + bytes;
  }
};

/// It reads all of its source at one time and writes at another, both at random.
struct Transfer {
  std::function<void(std::vector<char>&)> read;
  std::function<void(const std::vector<char>&)> write;  ///< and tells the mbarrier
  SharedRange source, target;
  std::vector<char> bytes;
  bool has_read = false, done = false;
  bool waited_for = false;  ///< by the thread that began it, at least until it had read
  unsigned patience = 0;    ///< rounds of the scheduler until the next step

  void step() {
    if (has_read) {
      write(bytes);
      done = true;
    } else {
      read(bytes);
      has_read = true;
    }
  }
};

}  // namespace emulator
