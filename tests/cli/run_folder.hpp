// A folder of tensors that tests have `fa run` read.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fa/attention.hpp"
#include "files.hpp"
#include "program.hpp"
#include "reference/number.hpp"
#include "support/io/npy.hpp"
#include "support/io/safetensors.hpp"

namespace fa::test {

inline io::Array random(DType dtype, const std::vector<int64_t>& shape, uint32_t seed,
                        double mean = 0, double deviation = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, deviation);
  io::Array array(dtype, shape);
  for (int64_t i = 0; i < array.elements(); ++i) {
    reference::store(dtype, array.data() + i * dtype.bits / 8, normal(generator));
  }
  return array;
}

inline io::Array constant(DType dtype, const std::vector<int64_t>& shape, double value) {
  return random(dtype, shape, 1, value, 0);
}

inline void set(io::Array& array, int64_t index, double value) {
  reference::store(array.dtype(), array.data() + index * array.dtype().bits / 8, value);
}

template <typename T>
io::Array list(DType dtype, const std::vector<T>& values) {
  io::Array array(dtype, {static_cast<int64_t>(values.size())});
  std::memcpy(array.data(), values.data(), static_cast<size_t>(array.bytes()));
  return array;
}

inline bool same_bits(const io::Array& a, const io::Array& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.bytes())) == 0;
}

/// A folder with tensors as files, which runs go to.
class RunTest : public testing::Test {
 protected:
  void npy(const std::string& name, const io::Array& array) {
    const std::string path = folder_ / (name + ".npy");
    io::OutputFile file(path);
    io::write_npy(file, path, array);
    file.commit();
  }
  void safetensors(const std::string& name,
                   const std::vector<std::pair<std::string, const io::Array*>>& tensors) {
    io::OutputFile file(folder_ / name);
    io::write_safetensors(file, tensors);
    file.commit();
  }
  void npy_qkv(DType dtype = float32) {
    npy("q", random(dtype, {2, 40, 4, 16}, 1));
    npy("k", random(dtype, {2, 70, 2, 16}, 2));
    npy("v", random(dtype, {2, 70, 2, 24}, 3));
    npy("dout", random(dtype, {2, 40, 4, 24}, 4));
  }
  /// "--flag <folder>/name.npy"
  std::string flag(const std::string& name, const std::string& file = "") {
    return " --" + name + " " + (folder_ / ((file.empty() ? name : file) + ".npy"));
  }
  std::string qkv() { return "run" + flag("q") + flag("k") + flag("v"); }
  std::string out(const std::string& name) { return " --out " + (folder_ / name); }
  io::Array read(const std::string& name) { return io::read_npy(folder_ / (name + ".npy")); }

  TemporaryFolder folder_;
};

}  // namespace fa::test
