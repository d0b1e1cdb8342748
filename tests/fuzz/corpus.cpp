// Writes what the fuzzers begin with: corpus FOLDER. Valid files of every type for the readers; for
// the C ABI bytes, of which nearly all are a valid call.
#include <cstring>
#include <filesystem>
#include <random>

#include "support/io/file.hpp"
#include "support/io/npy.hpp"
#include "support/io/safetensors.hpp"

namespace {

using fa::io::Array;

Array array(fa::DType dtype, std::vector<int64_t> shape) {
  Array result(dtype, std::move(shape));
  std::memset(result.data(), 1, static_cast<size_t>(result.bytes()));
  return result;
}

template <typename Write>
void write_file(const std::filesystem::path& path, Write write) {
  fa::io::OutputFile file(path);
  write(file);
  file.commit();
}

const std::vector<int64_t> shapes[] = {{}, {0}, {3}, {2, 0, 5}, {2, 3, 4}};

void write_npy_files(const std::filesystem::path& folder) {
  int number = 0;
  for (const fa::DType dtype : {fa::float32, fa::float16, fa::int32, fa::int64}) {
    for (const auto& shape : shapes) {
      const std::string path = folder / (std::to_string(number++) + ".npy");
      write_file(path, [&](auto& file) { fa::io::write_npy(file, path, array(dtype, shape)); });
    }
  }
}

void write_safetensors_files(const std::filesystem::path& folder) {
  int number = 0;
  for (const auto& shape : shapes) {
    const Array q = array(fa::float32, shape);
    const Array k = array(fa::float16, shape);
    const Array v = array(fa::bfloat16, shape);
    const Array lengths = array(fa::int32, shape);
    const Array state = array(fa::int64, shape);
    const std::pair<std::string, const Array*> tensors[] = {
        {"q", &q}, {"k", &k}, {"v", &v}, {"lengths", &lengths}, {"state", &state}};
    write_file(folder / (std::to_string(number++) + ".safetensors"),
               [&](auto& file) { fa::io::write_safetensors(file, tensors); });
  }
}

void write_calls(const std::filesystem::path& folder) {
  std::mt19937 random(1);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same corpus each time
  for (int number = 0; number < 200; ++number) {
    std::string bytes(100 + number, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    write_file(folder / std::to_string(number), [&](auto& file) { file.write(bytes); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path folder = argv[1];
  for (const char* name : {"npy", "safetensors", "capi"}) {
    std::filesystem::create_directories(folder / name);
  }
  write_npy_files(folder / "npy");
  write_safetensors_files(folder / "safetensors");
  write_calls(folder / "capi");
}
