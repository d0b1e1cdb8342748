// Any bytes as an .npy file: an array, which is the file's last bytes, or a FileError.
#include <cstring>

#include "accepted.hpp"
#include "memory_file.hpp"
#include "support/io/error.hpp"
#include "support/io/npy.hpp"

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fa::fuzz::judge_at_exit();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fa::fuzz::MemoryFile file(data, size);
  bool valid = false;
  try {
    const fa::io::Array array = fa::io::read_npy(file.path());
    const auto bytes = static_cast<size_t>(array.bytes());
    fa::fuzz::require(bytes < size && std::memcmp(array.data(), data + size - bytes, bytes) == 0,
                      "the array differs from the file");
    valid = true;
  } catch (const fa::io::FileError& error) {
    fa::fuzz::require(*error.what() != '\0', "an error without a message");
  }
  fa::fuzz::count(valid);
  return 0;
}
