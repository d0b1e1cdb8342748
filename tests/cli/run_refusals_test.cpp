// `fa run`: what it refuses, and that it then writes nothing.
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "fa/attention.hpp"
#include "run_folder.hpp"

namespace fa::test {
namespace {

TEST_F(RunTest, PrintsErrorsAfterWhatCameBefore) {
  npy_qkv();
  npy("bad", random(float32, {2, 70, 3, 16}, 2));
  const Ended run =
      fa("run" + flag("q") + flag("k", "bad") + flag("v") + " --check", "", Streams::together);
  EXPECT_EQ(run.code, 2);
  const size_t error = run.out.find("fa: k: has 3 heads");
  ASSERT_NE(error, run.out.npos) << run.out;
  EXPECT_LT(run.out.find("v         float32"), error) << run.out;
}

TEST_F(RunTest, Float64SaysWhatToDo) {
  npy_qkv();
  std::string bytes = read_bytes(folder_ / "q.npy");
  bytes.replace(bytes.find("<f4"), 3, "<f8");
  write_bytes(folder_ / "q.npy", bytes);
  const Ended run = fa(qkv() + " --check");
  EXPECT_EQ(run.code, 2);
  EXPECT_TRUE(contains(run.err, "q.npy: holds float64")) << run.err;
  EXPECT_TRUE(contains(run.err, "array.astype(numpy.float32)")) << run.err;
}

TEST_F(RunTest, WritesNothingOnAnError) {
  npy_qkv();
  npy("bad", random(float32, {2, 70, 3, 16}, 1));
  npy("flat", random(float32, {64}, 1));
  npy("scalar", random(float32, {}, 1));
  write_bytes(folder_ / "cut.npy", read_bytes(folder_ / "q.npy").substr(0, 1000));
  write_bytes(folder_ / "old.safetensors", "old");
  const std::string k = flag("k");
  const std::string v = flag("v");
  const size_t before = folder_.entries();
  const struct {
    std::string arguments;
    const char* message;
  } cases[] = {
      {"run" + flag("q") + flag("k", "bad") + v, "k: "},
      {"run" + flag("q", "cut") + k + v, "cut.npy: has "},
      {"run" + flag("q", "missing") + k + v, "missing.npy: cannot be opened"},
      {"run" + flag("q", "flat") + k + v, "--q: has the shape [64]"},
      {"run" + flag("q") + k + v + flag("sinks", "scalar"), "--sinks: is a single number"},
      {"run" + k + v, "--q: \"q\" is neither FILE.npy"},
      {qkv() + flag("dlse", "q"), "--dlse: needs --dout"},
      {qkv() + " --dropout-p 1", "dropout_p"},
      {qkv() + " --tensors missing.safetensors", "missing.safetensors: cannot be opened"},
  };
  for (const auto& wrong : cases) {
    for (const char* name : {"results", "old.safetensors"}) {
      const Ended run = fa(wrong.arguments + out(name));
      EXPECT_EQ(run.code, 2) << wrong.arguments;
      EXPECT_TRUE(contains(run.err, wrong.message)) << run.err;
      EXPECT_EQ(folder_.entries(), before) << wrong.arguments;
      EXPECT_EQ(read_bytes(folder_ / "old.safetensors"), "old");
    }
  }
}

TEST_F(RunTest, RefusesNamesThatItCannotWriteTo) {
  npy_qkv();
  EXPECT_EQ(fa(qkv()).code, 2) << "neither --out nor --check";
  EXPECT_EQ(fa(qkv() + out("o.npy")).code, 2);
  const size_t before = folder_.entries();
  std::filesystem::create_directory(folder_ / "taken.safetensors");
  std::filesystem::create_directories(folder_ / "blocked/lse.npy");
  for (const char* name :
       {"no/such/folder", "no/o.safetensors", "taken.safetensors", "q.npy/o", "blocked"}) {
    const Ended early = fa(qkv() + out(name));
    EXPECT_EQ(early.code, 2) << name;
    EXPECT_FALSE(contains(early.out, "forward")) << name << " is found before computing";
  }
  EXPECT_EQ(folder_.entries(), before + 2);
}

TEST_F(RunTest, RefusesToOverwriteItsInputs) {
  const io::Array x = random(float32, {2, 8, 4, 16}, 1);
  const io::Array packed = random(float32, {16, 4, 16}, 1);
  const io::Array cu = list<int32_t>(int32, {0, 8, 16});
  const io::Array used = list<int32_t>(int32, {8, 3});
  const io::Array slopes = random(float32, {4}, 2);
  const io::Array state = list<int64_t>(int64, {7, 9});
  npy("x", x);
  npy("packed", packed);
  std::filesystem::create_directory(folder_ / "o");
  const auto run_on = [&](const std::string& name) {
    return "run" + flag("q", name) + flag("k", name) + flag("v", name);
  };
  const struct {
    const char* flag;
    const io::Array& array;
    std::string arguments;
  } cases[] = {
      {"q", x, "run" + flag("k", "x") + flag("v", "x")},
      {"dout", x, run_on("x")},
      {"sinks", slopes, run_on("x")},
      {"alibi-slopes", slopes, run_on("x")},
      {"dropout-state", state, run_on("x") + " --dropout-p 0.5"},
      {"seqused-q", used, run_on("x")},
      {"seqused-k", used, run_on("x")},
      {"cu-seqlens-q", cu, run_on("packed") + flag("cu-seqlens-k", "cu")},
      {"cu-seqlens-k", cu, run_on("packed") + flag("cu-seqlens-q", "cu")},
  };
  npy("cu", cu);
  for (const auto& test : cases) {
    const std::string file = folder_ / "in.safetensors";
    for (const bool in_folder : {false, true}) {
      std::string source = folder_ / "o/lse.npy";
      if (in_folder) {
        npy("o/lse", test.array);
      } else {
        safetensors("in.safetensors", {{"x", &test.array}});
        source = file + ":x";
      }
      const std::string path = in_folder ? folder_ / "o/lse.npy" : file;
      const std::string before = read_bytes(path);
      const Ended run = fa(test.arguments + " --" + test.flag + " " + source + " --out " +
                           (in_folder ? folder_ / "o" : file));
      EXPECT_EQ(run.code, 2) << test.flag << run.out;
      EXPECT_TRUE(contains(run.err, path + "\" is an input")) << run.err;
      EXPECT_EQ(read_bytes(path), before) << test.flag;
      EXPECT_FALSE(std::filesystem::exists(folder_ / "o/out.npy")) << test.flag;
    }
  }
}

TEST_F(RunTest, FullDiskLeavesNothing) {
  npy_qkv();
  const size_t before = folder_.entries();
  for (const char* name : {"results", "o.safetensors"}) {
    const Ended run = fa(qkv() + out(name), "ulimit -f 8;");
    EXPECT_EQ(run.code, 2) << run.err;
    EXPECT_TRUE(contains(run.err, "cannot be written: File too large")) << run.err;
    EXPECT_TRUE(contains(run.err, folder_ / name)) << run.err;
    EXPECT_FALSE(contains(run.err, ".tmp")) << "the user's name: " << run.err;
    EXPECT_EQ(folder_.entries(), before);
  }
}

TEST_F(RunTest, WritesNothingThatItCannotReport) {
  npy_qkv();
  std::filesystem::create_directory(folder_ / "there");
  const size_t before = folder_.entries();
  for (const char* name : {"results", "there", "o.safetensors"}) {
    const std::string command = "'" FA_PROGRAM "' " + qkv() + out(name) + " >/dev/full 2>&1";
    const int status = std::system(command.c_str());
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 2) << name;
    EXPECT_EQ(folder_.entries(), before) << name;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "there"));
}

/// Descriptors that are closed are not taken by files.
TEST_F(RunTest, RunsWithClosedStreams) {
  const std::string command = "'" FA_PROGRAM "' run --tensors " FA_TEST_DATA
                              "/minilm_qkv.safetensors" +
                              out("o.safetensors");
  const auto code = [&](const std::string& streams) {
    const int status = std::system((command + streams).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string devices = " </dev/null >/dev/null 2>/dev/null";
  for (const char* closed : {" >&-", " <&- >&-", " <&- >&- 2>&-"}) {
    EXPECT_EQ(code(devices + closed), 2) << closed;
    EXPECT_EQ(folder_.entries(), 0U) << closed;
  }
  ASSERT_EQ(code(devices), 0);
  const std::string whole = read_bytes(folder_ / "o.safetensors");
  for (const char* closed : {" <&-", " 2>&-", " <&- 2>&-"}) {
    std::filesystem::remove(folder_ / "o.safetensors");
    EXPECT_EQ(code(devices + closed), 0) << closed;
    EXPECT_EQ(read_bytes(folder_ / "o.safetensors"), whole) << closed;
  }
}

TEST_F(RunTest, ShowsNoControlCharactersOfFiles) {
  npy_qkv();
  const io::Array x = random(float32, {2, 8, 4, 16}, 1);
  safetensors("in.safetensors", {{"\x1b[31mred\xc2\x9b", &x}});
  const Ended run = fa("run --check --tensors " + (folder_ / "in.safetensors"));
  EXPECT_EQ(run.code, 2);
  EXPECT_TRUE(contains(run.err, "it has \\u001b[31mred\\u009b\n")) << run.err;
}

}  // namespace
}  // namespace fa::test
