// Safetensors files: those of the reference implementation, and those that nobody should write.
#include "support/io/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "files.hpp"
#include "support/io/error.hpp"

namespace fa::test {
namespace {

const std::string one = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";

std::string error_of(const std::string& json, uint64_t data_size) {
  try {
    io::parse_safetensors(json, data_size, "a.safetensors");
  } catch (const io::FileError& error) {
    return error.what();
  }
  return "accepted";
}

std::string error_of_file(const std::string& bytes) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  write_bytes(path, bytes);
  try {
    const io::Safetensors file(path);
    for (const auto& [name, entry] : file.header()) file.read(name);
  } catch (const io::FileError& error) {
    return error.what();
  }
  return "accepted";
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

std::string object(const std::vector<std::string>& entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

TEST(Safetensors, ReadsHeaders) {
  const auto header = io::parse_safetensors(
      object({R"("__metadata__":{"format":"pt"})", entry("b", "BF16", "[0,4]", "[0,0]"),
              entry("a", "F8_NEW", "[3]", "[0,5]"), entry("c", "U8", "[]", "[5,6]")}) +
          "   ",
      6, "a");
  ASSERT_EQ(header.size(), 3u);
  EXPECT_EQ(header.at("b").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(header.at("a").end, 5u) << "a type that we do not know is no error until it is read";
}

TEST(Safetensors, RefusesWhatIsWrongAndSaysWhat) {
  const auto with = [](const std::string& shape, const std::string& offsets) {
    return object({entry("a", "F32", shape, offsets)});
  };
  const struct {
    std::string json;
    uint64_t size;
    const char* message;
  } cases[] = {
      {"", 0, "not JSON"},
      {"{", 0, "not JSON"},
      {"[]", 0, "not a JSON object"},
      {std::string(100000, '['), 0, "not a JSON object"},
      {R"({"a":{"x":)" + std::string(100000, '['), 0, "not JSON"},
      {"\xef\xbb\xbf" + one, 24, "byte order mark"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1,
       "'a' has its 'dtype' twice"},
      {R"({"a":{"dtype":"U8","shape":[],"shape":[],"data_offsets":[0,1]}})", 1, "'shape' twice"},
      {R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"data_offsets":[0,1]}})", 1,
       "'data_offsets' twice"},
      {R"({"__metadata__":3})", 0, "__metadata__ is not a map of strings"},
      {R"({"__metadata__":["a"]})", 0, "__metadata__ is not a map of strings"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__ is not a map of strings"},
      {R"({"__metadata__":{"a":{}}})", 0, "__metadata__ is not a map of strings"},
      {R"({"__metadata__":{"a":[]}})", 0, "__metadata__ is not a map of strings"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "header has its __metadata__ twice"},
      {R"({"__metadata__":null,"__metadata__":{}})", 0, "header has its __metadata__ twice"},
      {R"({"a":[]})", 0, "not described by an object"},
      {R"({"a":{"dtype":{},"shape":[],"data_offsets":[0,4]}})", 4, "'dtype' that is not a string"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4, "that is not an array"},
      {R"({"a":{"dtype":"F32","shape":[],"data_offsets":{"a":1}}})", 4, "array of two"},
      {with("[[6]]", "[0,24]"), 24, "not a whole number"},
      {with("[-0]", "[0,24]"), 24, "not a whole number"},
      {with("[6]", "[0,24,24]"), 24, "array of two"},
      {"{\"\\u001b[31m\\u0007\\u009b\\u202e\":1}", 0,
       R"(tensor '\u001b[31m\u0007\u009b\u202e' is not described)"},
      {"{\"\x1b[31m\":1}", 0, "not JSON"},
      {R"({"a":1})", 0, "not described by an object"},
      {R"({"a":{}})", 0, "no 'dtype'"},
      {R"({"a":{"dtype":"F32"}})", 0, "no 'shape'"},
      {R"({"a":{"dtype":"F32","shape":[]}})", 0, "no 'data_offsets'"},
      {R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})", 4, "'dtype' that is not a string"},
      {with("6", "[0,24]"), 24, "'shape' that is not an array"},
      {with("[-6]", "[0,24]"), 24, "not a whole number"},
      {with("[6.0]", "[0,24]"), 24, "not a whole number"},
      {with("[1e30]", "[0,24]"), 24, "not a whole number"},
      {with("[18446744073709551615]", "[0,24]"), 24, "not a whole number"},
      {with("[6]", "[0]"), 24, "array of two"},
      {with("[6]", "[24,0]"), 24, "bytes 24 to 0"},
      {with("[6]", "[0,25]"), 24, "of the 24 bytes"},
      {with("[5]", "[0,24]"), 24, "not what its shape"},
      {with("[4611686018427387904,4]", "[0,0]"), 0, "not what its shape"},
      {with("[6]", "[0,24]"), 32, "its tensors need 24"},
      {object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[2,6]")}), 6,
       "'b' starts at byte 2"},
      {object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[5,9]")}), 9,
       "'b' starts at byte 5"},
      {object({entry("a", "U8", "[1]", "[0,1]"), entry("a", "U8", "[1]", "[1,2]")}), 2,
       "'a' is described twice"},
  };
  for (const auto& wrong : cases) {
    const std::string message = error_of(wrong.json, wrong.size);
    EXPECT_NE(message.find(wrong.message), message.npos) << message << "\n" << wrong.json;
    EXPECT_TRUE(message.starts_with("a.safetensors: ")) << message;
  }
}

TEST(Safetensors, TakesWhatTheReferenceReaderTakes) {
  const auto tensor = [](const std::string& more) {
    return R"({"a":{)" + more + R"("dtype":"U8","shape":[],"data_offsets":[0,1]}})";
  };
  for (const std::string& json :
       {tensor(R"("x":{"y":[{},[1,null,true,2.5,-3,"z"]]},)"), tensor(R"("x":1,"x":[],)"),
        R"({"__metadata__":null,)" + tensor("").substr(1),
        R"({"__metadata__":{"a":"b","a":"c"},)" + tensor("").substr(1),
        " \n" + tensor("") + "\t "}) {
    EXPECT_EQ(error_of(json, 1), "accepted") << json;
  }
}

/// The longest header that the reader takes. In quadratic time it would take hours.
TEST(Safetensors, ReadsLongHeadersInLinearTime) {
  std::string many = "{";
  uint64_t count = 0;
  for (; many.size() < io::safetensors_max_header - 100; ++count) {
    if (count > 0) many += ',';
    many += entry(std::to_string(count), "U8", "[1]", fmt::format("[{},{}]", count, count + 1));
  }
  many += '}';
  std::string nested = R"({"a":{"x":[{})";
  while (nested.size() < io::safetensors_max_header - 100) nested += ",{}";
  nested += R"(],"dtype":"U8","shape":[],"data_offsets":[0,1]}})";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(io::parse_safetensors(many, count, "a").size(), count);
  EXPECT_EQ(error_of(nested, 1), "accepted");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::minutes(2));
}

TEST(Safetensors, RefusesFilesThatAreCutOffOrForeign) {
  const std::string whole = little_endian(one.size(), 8) + one + std::string(24, 'x');
  ASSERT_EQ(error_of_file(whole), "accepted");
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(error_of_file(whole.substr(0, length)), "accepted") << length;
  }
  EXPECT_NE(error_of_file(little_endian(UINT64_MAX, 8) + one).find("claims a header"),
            std::string::npos);
  EXPECT_NE(error_of_file("PK\x03\x04 a zip file of some length").find("claims a header"),
            std::string::npos);
}

TEST(Safetensors, AnyChangedByteIsReadOrRefused) {
  for (size_t at = 0; at < one.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = one;
      changed[at] = static_cast<char>(value);
      if (error_of(changed, 24) != "accepted") continue;
      for (const auto& [name, tensor] : io::parse_safetensors(changed, 24, "a")) {
        EXPECT_LE(tensor.end, 24u) << changed;
      }
    }
  }
}

TEST(Safetensors, SaysWhichTensorsThereAre) {
  const std::string header =
      object({entry("a", "F64", "[1]", "[0,8]"), entry("b", "U8", "[1]", "[8,9]")});
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  write_bytes(path, little_endian(header.size(), 8) + header + "123456789");
  const io::Safetensors file(path);
  const auto error = [&](const char* name) -> std::string {
    try {
      file.read(name);
    } catch (const io::FileError& e) {
      return e.what();
    }
    return "read";
  };
  EXPECT_EQ(error("q"), path + ": has no tensor 'q'; it has a, b");
  EXPECT_NE(error("a").find("is of type F64"), std::string::npos);
}

TEST(Safetensors, RoundTrip) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  io::Array half(bfloat16, {3});
  io::Array wide(float32, {2, 2});
  io::Array empty(float16, {0, 8});
  std::memcpy(half.data(), "abcdef", 6);
  std::memcpy(wide.data(), "0123456789abcdef", 16);
  io::OutputFile file(path);
  const std::vector<std::pair<std::string, const io::Array*>> tensors{
      {"half", &half}, {"wide", &wide}, {"empty", &empty}};
  io::write_safetensors(file, tensors);
  file.commit();

  const io::Safetensors read(path);
  ASSERT_EQ(read.header().size(), 3u);
  for (const auto& [name, array] : tensors) {
    const io::Array back = read.read(name);
    EXPECT_EQ(back.dtype(), array->dtype());
    EXPECT_EQ(back.shape(), array->shape());
    EXPECT_EQ(std::memcmp(back.data(), array->data(), static_cast<size_t>(array->bytes())), 0);
    EXPECT_EQ(read.header().at(name).begin % static_cast<uint64_t>(array->dtype().bits / 8), 0u);
  }
}

/// Written by the format's own Python package (tools/capture_qkv.py).
TEST(Safetensors, ReadsThePythonPackagesFile) {
  const io::Safetensors file(FA_TEST_DATA "/minilm_qkv.safetensors");
  for (const char* name : {"q", "k", "v", "o"}) {
    EXPECT_EQ(file.read(name).shape(), (std::vector<int64_t>{97, 3, 32}));
  }
}

}  // namespace
}  // namespace fa::test
