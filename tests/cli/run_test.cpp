// `fa run`: from files to files.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "fa/attention.hpp"
#include "files.hpp"
#include "program.hpp"
#include "reference/number.hpp"
#include "support/io/npy.hpp"
#include "support/io/safetensors.hpp"

namespace fa::test {
namespace {

io::Array random(DType dtype, const std::vector<int64_t>& shape, uint32_t seed, double mean = 0,
                 double deviation = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, deviation);
  io::Array array(dtype, shape);
  for (int64_t i = 0; i < array.elements(); ++i) {
    reference::store(dtype, array.data() + i * dtype.bits / 8, normal(generator));
  }
  return array;
}

io::Array constant(DType dtype, const std::vector<int64_t>& shape, double value) {
  return random(dtype, shape, 1, value, 0);
}

void set(io::Array& array, int64_t index, double value) {
  reference::store(array.dtype(), array.data() + index * array.dtype().bits / 8, value);
}

template <typename T>
io::Array list(DType dtype, const std::vector<T>& values) {
  io::Array array(dtype, {static_cast<int64_t>(values.size())});
  std::memcpy(array.data(), values.data(), static_cast<size_t>(array.bytes()));
  return array;
}

bool same_bits(const io::Array& a, const io::Array& b) {
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

TEST_F(RunTest, RealTensorsOfALanguageModel) {
  const std::string data = FA_TEST_DATA "/minilm_qkv.safetensors";
  const Ended run = fa("run --tensors " + data + " --dout v --check" + out("o.safetensors"));
  ASSERT_EQ(run.code, 0) << run.out << run.err;
  const io::Array ours = io::Safetensors(folder_ / "o.safetensors").read("out");
  const io::Array model = io::Safetensors(data).read("o");
  ASSERT_EQ(ours.shape(), model.shape());
  for (int64_t i = 0; i < ours.elements(); ++i) {
    EXPECT_NEAR(ours.as<float>()[i], model.as<float>()[i], 1e-5f);
  }
}

TEST_F(RunTest, NpyAndSafetensorsGiveTheSameBits) {
  npy_qkv();
  const io::Array q = read("q");
  const io::Array k = read("k");
  const io::Array v = read("v");
  safetensors("in.safetensors", {{"queries", &q}, {"k", &k}, {"v", &v}});
  ASSERT_EQ(fa(qkv() + " --causal" + out("results")).code, 0);
  ASSERT_EQ(fa("run --causal --q queries --tensors " + (folder_ / "in.safetensors") +
               out("out.safetensors"))
                .code,
            0);
  ASSERT_EQ(fa("run --causal --q " + (folder_ / "in.safetensors:queries") + flag("k") + flag("v") +
               out("mixed.safetensors"))
                .code,
            0);
  const io::Array lse = read("results/lse");
  EXPECT_EQ(read("results/out").shape(), (std::vector<int64_t>{2, 40, 4, 24}));
  EXPECT_EQ(lse.shape(), (std::vector<int64_t>{2, 4, 40}));
  for (const char* name : {"out.safetensors", "mixed.safetensors"}) {
    const io::Safetensors file(folder_ / name);
    EXPECT_EQ(file.header().size(), 2u);
    EXPECT_TRUE(same_bits(file.read("out"), read("results/out")));
    EXPECT_TRUE(same_bits(file.read("lse"), lse));
  }
}

TEST_F(RunTest, EveryDtype) {
  npy_qkv(float16);
  EXPECT_EQ(fa(qkv() + flag("dout") + " --check" + out("results")).code, 0);
  EXPECT_EQ(read("results/dk").dtype(), float16);

  const io::Array q = random(bfloat16, {1, 33, 2, 8}, 1);
  safetensors("bf16.safetensors", {{"q", &q}});
  const std::string bf16 =
      "run --k q --v q --dout q --check --tensors " + (folder_ / "bf16.safetensors");
  EXPECT_EQ(fa(bf16 + out("o.safetensors")).code, 0);
  EXPECT_EQ(io::Safetensors(folder_ / "o.safetensors").read("dv").dtype(), bfloat16);
  const Ended run = fa(bf16 + out("folder"));
  EXPECT_EQ(run.code, 2);
  EXPECT_TRUE(contains(run.err, "npy files cannot hold bfloat16")) << run.err;
}

TEST_F(RunTest, GradientsOfEverything) {
  npy_qkv();
  npy("dlse", random(float32, {2, 4, 40}, 5));
  npy("bias", random(float32, {1, 4, 1, 70}, 6));
  npy("sinks", random(float32, {4}, 7));
  npy("slopes", random(float32, {2, 4}, 8));
  const Ended run = fa(qkv() + flag("dout") + flag("dlse") + flag("bias") + flag("sinks") +
                       flag("alibi-slopes", "slopes") +
                       " --window-left 30 --window-right 5 --softcap 4 --scale 0.3 --dropout-p 0.2 "
                       "--dropout-seed 7 --dropout-offset 9 --check" +
                       out("results"));
  ASSERT_EQ(run.code, 0) << run.out << run.err;
  for (const char* tensor : {"out", "lse", "dq", "dk", "dv", "dbias", "dsinks"}) {
    EXPECT_TRUE(contains(run.out, tensor)) << run.out;
    EXPECT_NO_THROW(read(std::string("results/") + tensor));
  }
  EXPECT_EQ(read("results/dq").shape(), read("q").shape());
  EXPECT_EQ(read("results/dv").shape(), read("v").shape());
  EXPECT_EQ(read("results/dbias").shape(), read("bias").shape());
  EXPECT_EQ(read("results/dsinks").shape(), read("sinks").shape());

  npy("state", list<int64_t>(int64, {7, 9}));
  npy("results/unused", read("q"));
  ASSERT_EQ(fa(qkv() + " --dropout-p 0.2 --dropout-seed 7 --dropout-offset 9" + out("a")).code, 0);
  ASSERT_EQ(fa(qkv() + " --dropout-p 0.2" + flag("dropout-state", "state") + out("b")).code, 0);
  EXPECT_TRUE(same_bits(read("a/out"), read("b/out")));
}

TEST_F(RunTest, PackedSequencesAreEachOnTheirOwn) {
  npy("q", random(float32, {30, 2, 8}, 1));
  npy("cu", list<int64_t>(int64, {0, 10, 30}));  // int64 is what NumPy makes of a list
  ASSERT_EQ(fa("run --causal" + flag("q") + flag("k", "q") + flag("v", "q") + flag("dout", "q") +
               flag("cu-seqlens-q", "cu") + flag("cu-seqlens-k", "cu") + " --check" + out("packed"))
                .code,
            0);
  const io::Array packed = read("packed/out");
  EXPECT_EQ(packed.shape(), (std::vector<int64_t>{30, 2, 8}));
  EXPECT_EQ(read("packed/lse").shape(), (std::vector<int64_t>{2, 30}));

  const io::Array q = read("q");
  io::Array second(float32, {20, 2, 8});
  std::memcpy(second.data(), q.data() + 10 * 2 * 8 * 4, static_cast<size_t>(second.bytes()));
  npy("second", second);
  ASSERT_EQ(fa("run --causal" + flag("q", "second") + flag("k", "second") + flag("v", "second") +
               out("alone"))
                .code,
            0);
  const io::Array alone = read("alone/out");
  EXPECT_EQ(alone.shape(), (std::vector<int64_t>{20, 2, 8})) << "3 dimensions stay 3";
  EXPECT_EQ(read("alone/lse").shape(), (std::vector<int64_t>{2, 20}));
  EXPECT_EQ(
      std::memcmp(alone.data(), packed.data() + 10 * 2 * 8 * 4, static_cast<size_t>(alone.bytes())),
      0);
}

/// The first call starts threads; a second tells what a call takes.
TEST_F(RunTest, TimesAWarmCallToo) {
  npy_qkv();
  const Ended run = fa(qkv() + flag("dout") + " --dropout-p 0.5 --check");
  ASSERT_EQ(run.code, 0) << run.out << run.err;
  for (const std::string pass : {"\nforward   ", "\nbackward  "}) {
    const size_t begin = run.out.find(pass);
    ASSERT_NE(begin, run.out.npos) << run.out;
    const std::string line = run.out.substr(begin, run.out.find('\n', begin + 1) - begin);
    EXPECT_TRUE(contains(line, " (first call), ")) << line;
    EXPECT_TRUE(contains(line, " warm (the shortest of 5)")) << line;
  }
}

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

TEST_F(RunTest, UsedLengths) {
  npy_qkv();
  npy("used", list<int32_t>(int32, {70, 3}));
  ASSERT_EQ(fa(qkv() + flag("dout") + flag("seqused-k", "used") + " --check" + out("results")).code,
            0);
  npy("used", list<int64_t>(int64, {70, int64_t{1} << 40}));
  const Ended run = fa(qkv() + flag("seqused-k", "used") + " --check");
  EXPECT_EQ(run.code, 2);
  EXPECT_TRUE(contains(run.err, "--seqused-k: element 1 is 1099511627776")) << run.err;
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

TEST_F(RunTest, CheckNeedsFiniteNumbers) {
  for (const char* name : {"q", "k", "v", "dout"}) {
    for (const DType dtype : {float32, float16}) {
      npy_qkv(dtype);
      io::Array array = read(name);
      set(array, 77, name[0] == 'q' ? NAN : INFINITY);
      npy(name, array);
      const Ended run = fa(qkv() + flag("dout") + " --check" + out("results"));
      EXPECT_EQ(run.code, 2) << run.out;
      EXPECT_TRUE(contains(run.err, std::string("--") + name + ": element 77 is ")) << run.err;
    }
  }
  EXPECT_EQ(fa(qkv() + flag("dout") + out("results")).code, 0) << "without --check";

  npy_qkv();
  const struct {
    const char* flag;
    std::vector<int64_t> shape;
    bool masks;
  } others[] = {{"bias", {1, 1, 1, 70}, true},
                {"sinks", {4}, true},
                {"alibi-slopes", {2, 4}, false},
                {"dlse", {2, 4, 40}, false}};
  for (const auto& other : others) {
    for (const double value : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
      io::Array array = random(float32, other.shape, 5);
      set(array, 3, value);
      npy(other.flag, array);
      const Ended run = fa(qkv() + flag("dout") + flag(other.flag) + " --check");
      const bool allowed = other.masks && value == -INFINITY;
      EXPECT_EQ(run.code, allowed ? 0 : 2) << other.flag << value << run.out;
      const std::string message = std::string("--") + other.flag + ": element 3 is ";
      EXPECT_EQ(contains(run.err, message), !allowed) << run.err;
    }
  }
}

TEST_F(RunTest, CheckLooksAtWhatIsUsed) {
  npy("used_q", list<int32_t>(int32, {40, 2}));
  npy("used_k", list<int32_t>(int32, {70, 3}));
  const struct {
    const char* flag;
    io::Array array;
    int64_t used, beyond;  ///< elements of the second sequence
  } inputs[] = {{"q", random(float32, {2, 40, 4, 16}, 1), 42 * 64 - 1, 42 * 64},
                {"k", random(float32, {2, 70, 2, 16}, 2), 73 * 32 - 1, 73 * 32},
                {"v", random(float32, {2, 70, 2, 24}, 3), 73 * 48 - 1, 73 * 48},
                {"dout", random(float32, {2, 40, 4, 24}, 4), 42 * 96 - 1, 42 * 96},
                {"dlse", random(float32, {2, 4, 40}, 5), 7 * 40 + 1, 7 * 40 + 2},
                {"bias", random(float32, {2, 1, 40, 70}, 6), 41 * 70 + 2, 41 * 70 + 3}};
  const std::string command = qkv() + flag("dout") + flag("dlse") + flag("bias") +
                              flag("seqused-q", "used_q") + flag("seqused-k", "used_k") +
                              " --check";
  for (const auto& input : inputs) npy(input.flag, input.array);
  ASSERT_EQ(fa(command).code, 0);
  for (const auto& input : inputs) {
    io::Array array = read(input.flag);
    set(array, input.beyond, NAN);
    npy(input.flag, array);
    EXPECT_EQ(fa(command).code, 0) << input.flag;
    set(array, input.used, NAN);
    npy(input.flag, array);
    const Ended run = fa(command);
    EXPECT_EQ(run.code, 2) << input.flag << run.out;
    EXPECT_TRUE(contains(run.err, std::string("--") + input.flag + ": element ")) << run.err;
    npy(input.flag, input.array);
  }
  npy("used_k", list<int32_t>(int32, {70, 71}));
  const Ended run = fa(command);
  EXPECT_EQ(run.code, 2);
  EXPECT_TRUE(contains(run.err, "seqused_k: is 71")) << "lengths are not relied on" << run.err;
}

TEST_F(RunTest, CheckKnowsTheSumsBehindSampledResults) {
  // dV sums dO of both signs, weighted by a P that scores of 1e5 leave uncertain.
  const std::vector<int64_t> shape{1, 1000, 32, 64};
  npy("q", random(float32, shape, 1, 0, 100));
  npy("k", random(float32, shape, 2, 100));
  npy("v", random(float32, shape, 3, 1));
  npy("dout", random(float32, shape, 4));
  const Ended run = fa(qkv() + flag("dout") + " --causal --check");
  EXPECT_TRUE(contains(run.out, "a random sample of rows")) << run.out;
  EXPECT_EQ(run.code, 0) << run.out << run.err;
}

TEST_F(RunTest, CheckAllowsInfinityWhereTheResultDoesNotFit) {
  npy("q", constant(float16, {1, 300, 1, 8}, 1));
  npy("k", constant(float16, {1, 1, 1, 8}, 1));
  for (const double size : {400.0, -400.0}) {
    npy("dout", constant(float16, {1, 300, 1, 8}, size));
    const Ended run =
        fa("run" + flag("q") + flag("k") + flag("v", "k") + flag("dout") + " --check" + out("o"));
    EXPECT_EQ(run.code, 0) << run.out;
    const io::Array dv = read("o/dv");
    EXPECT_EQ(reference::load(float16, dv.data()), std::copysign(INFINITY, size));
  }
}

TEST_F(RunTest, CheckJudgesGradientsByTheDtypeOfTheQueries) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    npy("q", random(float16, {1, 40, 1, 16}, 4 * seed));
    npy("k", random(float16, {1, 70, 1, 16}, 4 * seed + 1));
    npy("dout", random(float16, {1, 40, 1, 16}, 4 * seed + 2));
    npy("sinks", random(float32, {1}, 4 * seed + 3));
    const Ended run = fa("run" + flag("q") + flag("k") + flag("v", "k") + flag("dout") +
                         flag("sinks") + " --check");
    EXPECT_EQ(run.code, 0) << run.out;
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
