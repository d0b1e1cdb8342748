#include "cuda/runtime/cubin.hpp"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "fa/attention.hpp"

namespace fa::cuda {

namespace {

// Attributes in the section .nv.info: a format, a name, and where the format says so a size and as
// many bytes: the number of a symbol and a value.
constexpr uint8_t sized_value = 4;
constexpr uint8_t frame_bytes = 0x11;
constexpr uint8_t stack_bytes = 0x12;  // the frame, and those of the functions called
constexpr uint8_t register_count = 0x2f;

class Cubin {
 public:
  Cubin(std::span<const char> bytes, const std::string& entry) : bytes_(bytes), entry_(entry) {
    const auto header = read<Elf64_Ehdr>(0);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != EM_CUDA) fail();
    for (int i = 0; i < header.e_shnum; ++i) {
      sections_.push_back(read<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr)));
    }
    if (header.e_shstrndx >= sections_.size()) fail();
    names_ = sections_[header.e_shstrndx];
  }

  CubinUse use() const {
    CubinUse use;
    const Elf64_Shdr& info = section(".nv.info");
    for (uint64_t at = info.sh_offset, end = at + info.sh_size; at < end;) {
      const auto attribute = read<Attribute>(at);
      at += sizeof attribute;
      if (attribute.format != sized_value) continue;  // its value lay in place of the size
      const auto value = read<Value>(at);
      at += attribute.size;
      if (attribute.size < sizeof value || !is_entry(value.symbol)) continue;
      if (attribute.name == register_count) use.registers = value.number;
      if (attribute.name == frame_bytes || attribute.name == stack_bytes) {
        use.local_bytes = std::max(use.local_bytes, value.number);
      }
    }
    if (use.registers == 0) fail();
    const Elf64_Shdr& code = section(".text." + entry_);
    if (code.sh_offset > bytes_.size() || bytes_.size() - code.sh_offset < code.sh_size) fail();
    use.code = digest({bytes_.data() + code.sh_offset, code.sh_size});
    return use;
  }

 private:
  struct Attribute {
    uint8_t format, name;
    uint16_t size;
  };
  struct Value {
    uint32_t symbol;
    int32_t number;
  };

  [[noreturn]] void fail() const {
    throw Error(Status::internal, fmt::format("cuda: no machine code of {} in {} bytes of a cubin",
                                              entry_, bytes_.size()));
  }

  template <typename T>
  T read(uint64_t offset) const {
    T value;
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof value) fail();
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::string_view text(uint64_t offset) const {
    if (offset >= bytes_.size()) fail();
    const std::string_view rest(bytes_.data() + offset, bytes_.size() - offset);
    return rest.substr(0, rest.find('\0'));
  }

  const Elf64_Shdr& section(std::string_view name) const {
    const auto found = std::ranges::find_if(sections_, [&](const Elf64_Shdr& section) {
      return text(names_.sh_offset + section.sh_name) == name;
    });
    if (found == sections_.end()) fail();
    return *found;
  }
  bool is_entry(uint32_t symbol) const {
    const auto found =
        read<Elf64_Sym>(section(".symtab").sh_offset + uint64_t{symbol} * sizeof(Elf64_Sym));
    return text(section(".strtab").sh_offset + found.st_name) == entry_;
  }

  std::span<const char> bytes_;
  const std::string& entry_;
  std::vector<Elf64_Shdr> sections_;
  Elf64_Shdr names_{};
};

}  // namespace

CubinUse cubin_use(std::span<const char> cubin, const std::string& entry) {
  return Cubin(cubin, entry).use();
}

}  // namespace fa::cuda
