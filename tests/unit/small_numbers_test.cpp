// Numbers at the edges of float32: subnormal inputs, small scales, sinks far above the scores. Each
// problem is held against the bound of docs/numerics.md.
#include <gtest/gtest.h>

#include <string>

#include "check/check.hpp"

namespace fa::check {
namespace {

Spec problem(DType dtype, int64_t rows, int64_t keys) {
  Spec s;
  s.seed = 1;
  s.dtype = dtype;
  s.backward = true;
  s.batch = 1;
  s.heads_q = s.heads_k = 2;
  s.dim = s.dim_v = 32;
  s.rows.extent = {rows};
  s.rows.seqlen = rows;
  s.keys.extent = {keys};
  s.keys.seqlen = keys;
  return s;
}

void expect_right(const Spec& spec) {
  Place place;
  const Verdict verdict = judge(spec, place);
  for (const std::string& failure : verdict.failures()) {
    ADD_FAILURE() << spec.text() << ": " << failure;
  }
}

TEST(SmallNumbers, InputsThatAreSubnormal) {
  for (const DType dtype : {float32, bfloat16}) {
    for (const int64_t rows : {1, 100}) {
      for (const int64_t keys : {1, 70, 700}) {
        Spec s = problem(dtype, rows, keys);
        s.value_size = 4e-39;
        expect_right(s);
        s.dout_size = 4e-39;
        expect_right(s);
        s.value_size = 1;
        expect_right(s);
        s.key_size = s.score_size = 4e-39;
        expect_right(s);
      }
    }
  }
}

TEST(SmallNumbers, InputsThatAreSubnormalInFloat16) {
  Spec s = problem(float16, 100, 70);
  s.value_size = 4e-6;
  expect_right(s);
  s.score_size = s.key_size = 4e-6;
  expect_right(s);
}

/// dK = scale dS Q is an ordinary number where Q is subnormal and dS large; neither may lose digits
/// to a small scale before they are multiplied.
TEST(SmallNumbers, SmallScaleOfSubnormalQueriesOrKeys) {
  for (const double scale : {1.0, 0x1p-3, 0x1p-12, 1e-20}) {
    for (const bool queries : {false, true}) {
      Spec s = problem(float32, 100, 70);
      s.scale = scale;
      s.value_size = 1e10;
      (queries ? s.score_size : s.key_size) = 1e-40;
      expect_right(s);
    }
  }
}

TEST(SmallNumbers, NormalKeysThatATinyScaleWouldMakeSubnormal) {
  Spec s = problem(float32, 100, 70);
  s.scale = 1e-30;
  s.value_size = 1e13;
  s.key_size = 1e-10;
  s.score_size = 1e-9;
  expect_right(s);
}

/// dS Q and dS K pass float32's largest number, and not after the scale.
TEST(SmallNumbers, SmallScaleOfLargeGradients) {
  Spec s = problem(float32, 100, 70);
  s.scale = 1e-15;
  s.value_size = s.dout_size = 1e13;
  s.score_size = s.key_size = 1e14;
  expect_right(s);
}

TEST(SmallNumbers, ScaleAboveOneOfTinyProducts) {
  Spec s = problem(float32, 100, 70);
  s.scale = 1e30;
  s.score_size = s.key_size = 1e-16;
  expect_right(s);
}

/// Chunks of keys are joined without the sink, which may be far above them.
TEST(Sinks, FarAboveTheScores) {
  for (const DType dtype : {float32, float16, bfloat16}) {
    for (const int64_t keys : {300, 512, 513, 1206, 2200}) {
      Spec s = problem(dtype, 1, keys);
      s.tensors[Feature::sinks] = {.shape = {s.heads_q}, .gradient = true};
      s.sink_size = 30;
      expect_right(s);
      s.window_left = 3;
      expect_right(s);
      s.rows.extent = {100};
      s.rows.seqlen = 100;
      expect_right(s);
    }
  }
}

}  // namespace
}  // namespace fa::check
