// `fa run`: from files to files.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "fa/attention.hpp"
#include "run_folder.hpp"

namespace fa::test {
namespace {

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

}  // namespace
}  // namespace fa::test
