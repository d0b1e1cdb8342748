// .npy files: those that NumPy writes, and those that nobody should.
#include "support/io/npy.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "files.hpp"
#include "support/io/error.hpp"

namespace fa::test {
namespace {

const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
const std::string data24(24, 'x');

std::string npy(int major, const std::string& header, const std::string& data) {
  std::string bytes = "\x93NUMPY";
  bytes.push_back(static_cast<char>(major));
  bytes.push_back('\0');
  return bytes + little_endian(header.size(), major == 1 ? 2 : 4) + header + data;
}

io::NpyHeader parse(const std::string& bytes) {
  return io::parse_npy(std::as_bytes(std::span(bytes)), bytes.size(), "a.npy");
}

std::string error_of(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const io::FileError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Npy, ReadsEveryVersion) {
  for (const int major : {1, 2, 3}) {
    const io::NpyHeader header = parse(npy(major, dict + "   \n", data24));
    EXPECT_EQ(header.dtype, float32);
    EXPECT_EQ(header.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(header.data_begin, (major == 1 ? 10u : 12u) + dict.size() + 4);
  }
}

TEST(Npy, ReadsHeadersInAnyOrderAndSpelling) {
  const auto shape = [](const std::string& header, const std::string& data) {
    return parse(npy(1, header, data)).shape;
  };
  EXPECT_EQ(shape(R"({"shape":(6,),"descr":"<f4","fortran_order":False})", data24),
            std::vector<int64_t>{6});
  EXPECT_EQ(shape("{'descr': '<i8', 'fortran_order': False, 'shape': (3,)}", data24),
            std::vector<int64_t>{3});
  EXPECT_TRUE(shape("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", "four").empty());
  EXPECT_EQ(shape("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 7)}", ""),
            (std::vector<int64_t>{0, 7}));
}

TEST(Npy, RefusesWhatIsWrongAndSaysWhat) {
  const auto header = [](const std::string& descr, const std::string& shape) {
    return "{'descr': " + descr + ", 'fortran_order': False, 'shape': " + shape + "}";
  };
  const struct {
    std::string bytes;
    const char* message;
  } cases[] = {
      {"", "does not begin with"},
      {"PK\x03\x04 a zip file", "does not begin with"},
      {npy(4, dict, data24), "npy version 4"},
      {npy(1, dict, data24).substr(0, 9), "cut off"},
      {npy(1, dict, data24).substr(0, 40), "cut off"},
      {npy(2, dict, "").replace(8, 4, little_endian(0xffffffff, 4)), "header of 4294967295 bytes"},
      {npy(1, dict, data24.substr(1)), "23 bytes of elements"},
      {npy(1, dict, data24 + "x"), "25 bytes of elements"},
      {npy(1, "", data24), "lacks a '{'"},
      {npy(1, "{}", data24), "no 'descr'"},
      {npy(1, "{'descr': '<f4', 'shape': (6,)}", data24), "no 'fortran_order'"},
      {npy(1, "{'descr': '<f4', 'fortran_order': False}", data24), "no 'shape'"},
      {npy(1, dict.substr(0, dict.size() - 1), data24), "lacks a '''"},
      {npy(1, dict + "{", data24), "after its closing brace"},
      {npy(1, "{'descr': '<f4', 'descr': '<f4'}", data24), "repeated key 'descr'"},
      {npy(1, "{'what': 1}", data24), "unknown or repeated key 'what'"},
      {npy(1, "{'\x1b[31m': 1}", data24), R"(repeated key '\u001b[31m')"},
      {npy(1, header("'\x1b]0;\x07\xff'", "(6,)"), data24), R"(type '\u001b]0;\u0007\xff')"},
      {npy(1, "{'descr': '<f4", data24), "string without an end"},
      {npy(1, "{'fortran_order': 0}", data24), "neither True nor False"},
      {npy(1, header("'>f4'", "(6,)"), data24), "type '>f4'"},
      {npy(1, header("'<f8'", "(3,)"), data24), "float64"},
      {npy(1, header("[('a', '<f4')]", "(6,)"), data24), "records"},
      {npy(1, header("'<f4'", "(-6,)"), data24), "not a whole number"},
      {npy(1, header("'<f4'", "(6.5,)"), data24), "lacks a ')'"},
      {npy(1, header("'<f4'", "(99999999999999999999,)"), data24), "not a whole number"},
      {npy(1, header("'<f4'", "(4611686018427387904, 4)"), ""), "not what its shape"},
      {npy(1, header("'<f4'", "(0, 9223372036854775807, 2)"), ""), "not what its shape"},
      {npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", data24), "Fortran order"},
  };
  for (const auto& wrong : cases) {
    const std::string message = error_of(wrong.bytes);
    EXPECT_NE(message.find(wrong.message), message.npos) << message;
    EXPECT_TRUE(message.starts_with("a.npy: ")) << message;
  }
}

TEST(Npy, RefusesEveryTruncation) {
  const std::string whole = npy(1, dict + "\n", data24);
  ASSERT_EQ(error_of(whole), "accepted");
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(error_of(whole.substr(0, length)), "accepted") << length;
  }
}

TEST(Npy, AnyChangedByteIsReadOrRefused) {
  const std::string whole = npy(1, dict + "\n", data24);
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      if (error_of(changed) != "accepted") continue;
      const io::NpyHeader header = parse(changed);
      EXPECT_EQ(io::byte_size(header.dtype, header.shape), 24);
    }
  }
}

TEST(Npy, RoundTrip) {
  const TemporaryFolder folder;
  for (const DType dtype : {float32, float16, int32, int64}) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{}, {5}, {0, 3}, {2, 3, 4}, {1, 2, 1, 30}}) {
      io::Array array(dtype, shape);
      for (int64_t i = 0; i < array.bytes(); ++i) array.data()[i] = static_cast<std::byte>(i * 7);
      const std::string path = folder / "a.npy";
      io::OutputFile file(path);
      io::write_npy(file, path, array);
      file.commit();
      const io::Array read = io::read_npy(path);
      EXPECT_EQ(read.dtype(), dtype);
      EXPECT_EQ(read.shape(), shape);
      ASSERT_EQ(read.bytes(), array.bytes());
      EXPECT_EQ(std::memcmp(read.data(), array.data(), static_cast<size_t>(read.bytes())), 0);
      const size_t header = read_bytes(path).size() - static_cast<size_t>(array.bytes());
      EXPECT_EQ(header % 64, 0u) << "NumPy aligns the elements";
    }
  }
}

TEST(Npy, CannotHoldBfloat16) {
  const TemporaryFolder folder;
  io::OutputFile file(folder / "a.npy");
  EXPECT_THROW(io::write_npy(file, "a.npy", io::Array(bfloat16, {2})), io::FileError);
}

}  // namespace
}  // namespace fa::test
