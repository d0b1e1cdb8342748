// `fa run --check`: what it holds against float64, and which inputs it refuses to judge.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fa/attention.hpp"
#include "run_folder.hpp"

namespace fa::test {
namespace {

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

}  // namespace
}  // namespace fa::test
