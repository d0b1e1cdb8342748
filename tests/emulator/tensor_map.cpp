#include "emulator/tensor_map.hpp"

#include <cstring>

#include "emulator/block.hpp"

namespace emulator {

namespace {

constexpr uint32_t magic = 0x0fa7e450;
constexpr int uint16 = 1, float16 = 6, float32 = 7, bfloat16 = 9;  // CU_TENSOR_MAP_DATA_TYPE_...
constexpr int refused = 1;

}  // namespace

int encode_tiled(void* map, int type, unsigned rank, void* address, const uint64_t* sizes,
                 const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                 int interleave, int swizzle, int promotion, int fill) {
  if (type != uint16 && type != float16 && type != float32 && type != bfloat16) return refused;
  if (reinterpret_cast<uintptr_t>(map) % alignof(fa::kernel::TensorMap) != 0) return refused;
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return refused;
  if (rank < 1 || rank > 5 || interleave != 0 || fill != 0) return refused;
  if (swizzle < 0 || swizzle > 3 || promotion < 0 || promotion > 3) return refused;
  Box::Form form{};
  form.magic = magic;
  form.type = static_cast<uint8_t>(type);
  form.rank = static_cast<uint8_t>(rank);
  form.swizzle = static_cast<uint8_t>(swizzle);
  form.address = static_cast<char*>(address);
  form.strides[0] = type == float32 ? 4 : 2;
  for (unsigned i = 0; i < rank; ++i) {
    if (sizes[i] < 1 || sizes[i] > uint64_t{1} << 32) return refused;
    if (box[i] < 1 || box[i] > 256 || steps[i] != 1) return refused;
    form.last[i] = static_cast<uint32_t>(sizes[i] - 1);
    form.box[i] = static_cast<uint16_t>(box[i]);
    if (i == 0) continue;
    const uint64_t stride = strides[i - 1];
    if (stride % 16 != 0 || stride >= uint64_t{1} << 40) return refused;
    form.strides[i] = stride;
  }
  const uint64_t line = box[0] * form.strides[0];
  if (line % 16 != 0) return refused;
  const auto span =
      static_cast<uint64_t>(fa::kernel::line_bytes(static_cast<fa::kernel::Swizzle>(swizzle)));
  if (swizzle != 0 && line != span) return refused;
  std::memset(map, 0, sizeof(fa::kernel::TensorMap));
  std::memcpy(map, &form, sizeof form);
  return 0;
}

Box::Box(const void* map, const int* at, int rank) {
  if (reinterpret_cast<uintptr_t>(map) % alignof(fa::kernel::TensorMap) != 0) {
    stop("a tensor map is not aligned to 64 bytes");
  }
  std::memcpy(&form_, map, sizeof form_);
  if (form_.magic != magic) stop("a tensor map was not encoded");
  if (form_.rank != rank) stop("a tensor map has another rank than its copy");
  std::memcpy(at_, at, sizeof(int) * static_cast<size_t>(rank));
}

int Box::element_bytes() const { return static_cast<int>(form_.strides[0]); }

int Box::bytes() const {
  int elements = 1;
  for (int i = 0; i < form_.rank; ++i) elements *= form_.box[i];
  return elements * element_bytes();
}

fa::kernel::Swizzle Box::swizzle() const { return static_cast<fa::kernel::Swizzle>(form_.swizzle); }

void Box::each(const std::function<void(int offset, char* global)>& f) const {
  int within[5] = {};
  for (int offset = 0, end = bytes(); offset < end; offset += element_bytes()) {
    bool exists = true;
    char* global = form_.address;
    for (int i = 0; i < form_.rank; ++i) {
      const int64_t place = int64_t{at_[i]} + within[i];
      exists = exists && place >= 0 && place <= form_.last[i];
      global += place * static_cast<int64_t>(form_.strides[i]);
    }
    f(offset, exists ? global : nullptr);
    for (int i = 0; i < form_.rank && ++within[i] == form_.box[i]; ++i) within[i] = 0;
  }
}

}  // namespace emulator
