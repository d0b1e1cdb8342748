// The random problems of a device, and their mirror, on the host.
#include "check/check.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "check/array.hpp"
#include "check/place.hpp"
#include "check/problems.hpp"
#include "host_accelerator.hpp"

namespace fa::check {
namespace {

/// All that a plan depends on.
std::string plan_key(const Spec& s) {
  Spec key;
  key.dtype = s.dtype;
  key.dim = s.dim;
  key.dim_v = s.dim_v;
  key.lse = s.lse;
  key.rows.packed = s.rows.packed;
  key.rows.seqused = s.rows.seqused;
  key.keys.packed = s.keys.packed;
  key.keys.seqused = s.keys.seqused;
  key.causal = s.causal;
  key.window_left = s.window_left < 0 ? -1 : 0;
  key.window_right = s.window_right < 0 ? -1 : 0;
  key.softcap = s.softcap > 0 ? 1 : 0;
  key.scale = s.scale && *s.scale <= 0 ? -1 : 1;
  key.dropout_p = s.dropout_p > 0 ? 0.5 : 0;
  key.dropout_state = s.dropout_state;
  for (const auto& [option, tensor] : s.tensors) {
    key.tensors[option] = {.shape = {1}, .dtype = tensor.dtype};
  }
  key.strided = s.strided;
  key.unaligned = s.unaligned;
  key.alignment = s.alignment;
  return key.text() + (s.deterministic ? " deterministic" : "") +
         (s.batch_invariant ? " batch_invariant" : "");
}

TEST(Problems, OfAConfigurationShareTheirPlansKey) {
  constexpr int64_t configurations = 150;
  const Problems problems(1, cuda_offer, configurations);
  for (int64_t c = 0; c < configurations; ++c) {
    for (int64_t n = c; n < c + 5 * configurations; n += configurations) {
      EXPECT_EQ(plan_key(problems.draw(n)), plan_key(problems.draw(c))) << n;
    }
  }
}

TEST(Problems, OfAFewConfigurationsAreTheFirstOfMany) {
  const Problems few(3, cuda_offer, 10), many(3, cuda_offer, 150);
  for (int64_t n = 0; n < 10; ++n) EXPECT_EQ(few.draw(n).text(), many.draw(n).text());
  EXPECT_FALSE(few.never_asked().empty());
}

TEST(Problems, OfADeviceMeetAllPairs) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const Problems problems(seed, cuda_offer, 150);
    EXPECT_TRUE(problems.never_asked().empty()) << problems.never_asked().size();
    PairTable pairs(cuda_offer.features);
    for (int64_t n = 0; n < full_run; ++n) {
      const Features features = problems.draw(n).features();
      EXPECT_TRUE((features & ~cuda_offer.features).none());
      pairs.add(features);
    }
    EXPECT_EQ(pairs.missed(), std::vector<std::string>()) << "seed " << seed;
  }
}

void expect_passed(const Report& report) {
  EXPECT_TRUE(report.passed());
  for (const Failure& failure : report.failures) {
    ADD_FAILURE() << failure.index << ": " << failure.problem << "\n" << failure.what;
  }
}

CheckConfig config_for(Accelerator& accelerator, int64_t count, int64_t configurations) {
  CheckConfig config;
  config.count = count;
  config.accelerator = &accelerator;
  config.offer = &accelerator.offer();
  config.configurations = configurations;
  return config;
}

TEST(Check, OnAMirrorFindsWhatItFindsOnTheHost) {
  test::HostAccelerator mirror;
  CheckConfig config = config_for(mirror, 200, 0);
  const Report there = run(config);
  expect_passed(there);
  config.accelerator = nullptr;
  const Report here = run(config);
  EXPECT_EQ(there.worst_ratio, here.worst_ratio);
  EXPECT_EQ(there.worst_problem, here.worst_problem);
  EXPECT_EQ(there.extras, here.extras);
}

TEST(Check, ADevicesProblemsAreRight) {
  test::HostAccelerator mirror(cuda_offer);
  expect_passed(run(config_for(mirror, 60, 30)));
}

TEST(Check, EachTensorMayHaveItsOwnAllocation) {
  test::HostAccelerator mirror(cuda_offer);
  CheckConfig config = config_for(mirror, 30, 30);
  config.allocation = Allocation::each;
  expect_passed(run(config));
}

/// Has written one byte that it should not have.
class Vandal : public test::HostAccelerator {
 public:
  void download(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    HostAccelerator::download(to, from, bytes, stream);
    if (bytes > place) to[place] = std::byte{0x5a};
  }
  size_t place = 0;
};

TEST(Check, AWriteOutsideOfAllTensorsIsFound) {
  Vandal vandal;
  const Report report = run(config_for(vandal, 1, 0));
  ASSERT_FALSE(report.failures.empty());
  EXPECT_NE(report.failures[0].what.find("outside of all tensors"), std::string::npos);
}

TEST(Check, AWriteToAnInputIsFound) {
  Vandal vandal;
  vandal.place = 256;  // of q, the first tensor, where it has so many bytes
  const Report report = run(config_for(vandal, 10, 0));
  EXPECT_TRUE(std::ranges::any_of(report.failures, [](const Failure& failure) {
    return failure.what.find("an input was written to") != std::string::npos;
  }));
}

TEST(Place, KeepsEveryMisalignment) {
  test::HostAccelerator accelerator;
  Place place(accelerator);
  Memory a(100), b(1), empty(0);
  std::vector<int32_t> c(7);
  MemoryList list;
  for (Memory* memory : {&a, &b, &empty}) list.add(memory->bytes());
  list.add(std::as_writable_bytes(std::span(c)));
  list.add(a.bytes());
  EXPECT_EQ(list.pieces().size(), 4u);
  place.run(list, [&](const Place::Here& here) {
    for (const size_t n : {0, 1, 2, 63, 99}) {
      const auto address = reinterpret_cast<uintptr_t>(here(a.data() + n));
      EXPECT_EQ(address % 256, n);
    }
    EXPECT_THROW(here(&list), std::logic_error);
    static_cast<int32_t*>(here(c.data()))[6] = 5;
  });
  EXPECT_EQ(c[6], 5);
}

TEST(Check, HashesTheOutputsOfAllProblems) {
  CheckConfig config;
  config.count = 20;
  config.threads = 1;
  const uint64_t hash = run(config).output_hash;
  config.threads = 3;
  EXPECT_EQ(run(config).output_hash, hash);
  config.count = 19;
  EXPECT_NE(run(config).output_hash, hash);
  config.count = 20;
  config.seed = 2;
  EXPECT_NE(run(config).output_hash, hash);
}

TEST(Layout, HasTheAlignmentAskedFor) {
  Random random(4);
  for (const int32_t alignment : {8, 4, 2}) {
    for (const DType dtype : {float16, float32}) {
      const int64_t bytes = std::max(alignment, dtype.bits / 8);
      for (int n = 0; n < 50; ++n) {
        const Layout layout =
            random_layout({2, 3, 4, 8}, dtype, {n % 2 == 0, true, alignment}, random);
        EXPECT_EQ(layout.offset * dtype.bits / 8 % (2 * bytes), bytes);
        for (const int64_t stride : layout.strides) {
          EXPECT_TRUE(stride == 1 || stride * dtype.bits / 8 % bytes == 0) << stride;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fa::check
