// Tile sizes, splits and slabs change nothing beyond rounding; threads and neighbours change no
// bit.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "cpu/passes.hpp"
#include "fa/attention.hpp"
#include "floats.hpp"
#include "plan/cpu/plan.hpp"
#include "problem/problem.hpp"

namespace {

using fa::CpuTuning;
using fa::test::Floats;

struct Inputs {
  Floats q, k, v, dout, bias, sinks;
  fa::Options options;
};

struct Results {
  std::vector<Floats> tensors;  // out, lse, dq, dk, dv, dbias, dsinks
};

/// Rows of the batch's first `batch` sequences only: for comparing a sequence alone.
Floats first(const Floats& all, int64_t batch) {
  Floats part(all.shape);
  part.shape[0] = batch;
  part.data.assign(all.data.begin(),
                   all.data.begin() + static_cast<int64_t>(all.data.size()) / all.shape[0] * batch);
  return part;
}

Inputs make_inputs(int64_t batch, int64_t q_len, int64_t k_len, int64_t heads_q, int64_t heads_k,
                   unsigned seed) {
  std::mt19937 random(seed);
  Inputs in;
  in.q = fa::test::normal({batch, q_len, heads_q, 24}, random);
  in.k = fa::test::normal({batch, k_len, heads_k, 24}, random);
  in.v = fa::test::normal({batch, k_len, heads_k, 40}, random);
  in.dout = fa::test::normal({batch, q_len, heads_q, 40}, random);
  in.bias = fa::test::normal({1, heads_q, q_len, k_len}, random);
  in.sinks = fa::test::normal({heads_q}, random);
  in.options.window_left = k_len - 3;
  in.options.softcap = 5;
  in.options.dropout_p = 0.2;
  in.options.dropout_seed = seed;
  return in;
}

Results run(const Inputs& in, const CpuTuning& tuning, int threads) {
  const int64_t batch = in.q.shape[0], q_len = in.q.shape[1], heads = in.q.shape[2];
  fa::Options options = in.options;
  options.bias = in.bias;
  options.sinks = in.sinks;
  options.num_threads = threads;
  const float nan = std::nanf("");
  Floats out(in.dout.shape, nan), lse({batch, heads, q_len}, nan);
  Floats dq(in.q.shape, nan), dk(in.k.shape, nan), dv(in.v.shape, nan);
  Floats dbias(in.bias.shape, nan), dsinks(in.sinks.shape, nan);
  const auto pass = [&](const auto& args, auto&& run_pass) {
    const fa::Call call = fa::validate(args, options, fa::Data::required);
    const fa::CpuPlan plan = fa::plan_cpu(call.problem, threads, fa::Arithmetic::widened, tuning);
    void* workspace = std::aligned_alloc(64, (plan.workspace_bytes + 63) / 64 * 64);
    run_pass(plan, call, workspace);
    std::free(workspace);
  };
  pass(fa::ForwardArgs{in.q, in.k, in.v, out, lse}, fa::cpu::forward);
  pass(fa::BackwardArgs{in.dout, in.q, in.k, in.v, out, lse, dq, dk, dv, {}, dbias, dsinks},
       fa::cpu::backward);
  return {{out, lse, dq, dk, dv, dbias, dsinks}};
}

void expect_close(const Results& a, const Results& b) {
  for (size_t t = 0; t < a.tensors.size(); ++t) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < a.tensors[t].data.size(); ++i) {
      difference += std::pow(a.tensors[t].data[i] - b.tensors[t].data[i], 2);
      norm += std::pow(b.tensors[t].data[i], 2);
    }
    EXPECT_LE(std::sqrt(difference), 2e-6 * std::sqrt(norm)) << "tensor " << t;
  }
}

void expect_same_bits(const Results& a, const Results& b) {
  for (size_t t = 0; t < a.tensors.size(); ++t) {
    EXPECT_EQ(a.tensors[t].data, b.tensors[t].data) << "tensor " << t;
  }
}

TEST(Tiles, ChangeNothingBeyondRounding) {
  for (const auto& [q_len, k_len] : {std::pair<int64_t, int64_t>{150, 211}, {7, 333}}) {
    const Inputs in = make_inputs(2, q_len, k_len, 6, 2, 1);
    const Results usual = run(in, {}, 1);
    for (const int64_t rows : {16, 40, 96}) {
      for (const int64_t keys : {16, 48, 128}) {
        CpuTuning tuning;
        tuning.forward_rows = tuning.backward_rows = rows;
        tuning.forward_keys = tuning.backward_keys = keys;
        tuning.slab_keys = 2 * keys;
        tuning.split_keys = 2 * keys;
        SCOPED_TRACE(testing::Message() << rows << " rows x " << keys << " keys");
        expect_close(run(in, tuning, 2), usual);
      }
    }
  }
}

TEST(Tiles, OfTwiceTheRowsForLongHeadsGiveTheSameBits) {
  Inputs in = make_inputs(2, 150, 211, 6, 2, 1);
  for (const bool causal : {false, true}) {
    in.options.causal = causal;
    if (causal) in.options.window_left = -1;
    CpuTuning tuning;
    tuning.forward_rows = 24;
    const Results usual = run(in, tuning, 2);
    tuning.long_head_bytes = 0;
    expect_same_bits(run(in, tuning, 2), usual);
  }
}

TEST(Tiles, ReadInPlaceOrPackedGiveTheSame) {
  for (const int64_t q_len : {1, 3, 7}) {
    const Inputs in = make_inputs(2, q_len, 1111, 10, 5, 3);
    const Results in_place = run(in, {}, 2);
    CpuTuning tuning;
    for (const int64_t bytes :
         {1, 200}) {  // one head at a time, or two and two and one: the same sums
      tuning.bytes_in_place = bytes;
      expect_same_bits(run(in, tuning, 2), in_place);
    }
    tuning.rows_in_place = 0;
    expect_close(run(in, tuning, 2), in_place);
  }
}

TEST(Tiles, ManyHeadsOnOneKeyHeadWhileDecoding) {
  const Inputs in = make_inputs(1, 2, 2100, 128, 1, 4);  // three tiles x three chunks
  CpuTuning whole;
  whole.split_keys = 4096;
  expect_close(run(in, {}, 2), run(in, whole, 1));
}

TEST(Threads, ChangeNoBit) {
  for (const auto& [q_len, k_len] : {std::pair<int64_t, int64_t>{300, 1500}, {5, 4000}}) {
    const Inputs in = make_inputs(2, q_len, k_len, 4, 2, 2);
    const Results one = run(in, {}, 1);
    for (const int threads : {2, 3, 7}) expect_same_bits(run(in, {}, threads), one);
  }
}

TEST(Neighbours, ChangeNoBit) {
  const Inputs both = make_inputs(3, 130, 1300, 4, 2, 3);
  Inputs alone = both;
  for (Floats* t : {&alone.q, &alone.k, &alone.v, &alone.dout}) *t = first(*t, 1);
  Results all = run(both, {}, 2);
  const Results one = run(alone, {}, 2);
  for (size_t t = 0; t < 5; ++t) {  // dbias and dsinks sum over the batch
    EXPECT_EQ(first(all.tensors[t], 1).data, one.tensors[t].data) << "tensor " << t;
  }
}

}  // namespace
