// Any bytes as a .safetensors file: its tensors, each the bytes that the header names, or a
// FileError.
#include <cstring>

#include "accepted.hpp"
#include "memory_file.hpp"
#include "support/io/error.hpp"
#include "support/io/safetensors.hpp"

namespace {

void read(const fa::io::Safetensors& file, const std::string& name, const uint8_t* begin) {
  try {
    const fa::io::Array array = file.read(name);
    fa::fuzz::require(std::memcmp(array.data(), begin, static_cast<size_t>(array.bytes())) == 0,
                      "a tensor differs from the file");
  } catch (const fa::io::FileError& error) {  // of a type that is not read
    fa::fuzz::require(*error.what() != '\0', "an error without a message");
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fa::fuzz::judge_at_exit();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fa::fuzz::MemoryFile memory(data, size);
  bool valid = false;
  try {
    const fa::io::Safetensors file(memory.path());
    uint64_t tensors_bytes = 0;
    for (const auto& [name, entry] : file.header()) tensors_bytes += entry.end - entry.begin;
    const uint8_t* first = data + size - tensors_bytes;
    for (const auto& [name, entry] : file.header()) read(file, name, first + entry.begin);
    valid = !file.header().empty();
  } catch (const fa::io::FileError& error) {
    fa::fuzz::require(*error.what() != '\0', "an error without a message");
  }
  fa::fuzz::count(valid);
  return 0;
}
