#include "gpu/gpu.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "check/check.hpp"
#include "check/cuda_accelerator.hpp"
#include "check/random.hpp"
#include "cuda/runtime/device.hpp"
#include "reference/number.hpp"

namespace fa::test {
namespace {

check::Allocation allocation() {
  const char* own = std::getenv("FA_TEST_OWN_ALLOCATIONS");
  return own != nullptr && std::string(own) == "1" ? check::Allocation::each
                                                   : check::Allocation::arena;
}

/// GoogleTest keeps a property's last value: the largest of the running test.
void record_ratio(double ratio) {
  static std::mutex mutex;
  static const testing::TestInfo* test = nullptr;
  static double worst = 0;
  const std::scoped_lock lock(mutex);
  const testing::TestInfo* current = testing::UnitTest::GetInstance()->current_test_info();
  if (current != test) worst = 0;
  test = current;
  worst = std::max(worst, ratio);
  testing::Test::RecordProperty("worst_ratio", fmt::format("{:.4f}", worst));
}

}  // namespace

check::Accelerator& gpu() {
  static const std::unique_ptr<check::Accelerator> device = check::cuda_accelerator(0);
  return *device;
}

GpuPlace::GpuPlace() : check::Place(gpu(), allocation()) {}

GpuMemory::GpuMemory(size_t bytes) : size_(bytes), buffer_(0, std::max<size_t>(bytes, 1)) {
  fill(0xff);
}

void GpuMemory::fill(unsigned char byte) const {
  cuda::fill(0, data(), byte, size_, nullptr);
  cuda::synchronize(0, nullptr);
}

void GpuMemory::upload(size_t at, const void* from, size_t bytes) const {
  cuda::upload(0, data() + at, from, bytes, nullptr);
  cuda::synchronize(0, nullptr);
}

void GpuMemory::download(void* to, size_t at, size_t bytes) const {
  cuda::download(0, to, data() + at, bytes, nullptr);
  cuda::synchronize(0, nullptr);
}

GpuTensor::GpuTensor(std::vector<int64_t> shape, DType dtype)
    : shape_(std::move(shape)),
      dtype_(dtype),
      memory_(static_cast<size_t>(numel() * dtype.bits / 8)) {}

int64_t GpuTensor::numel() const {
  return std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<>());
}

GpuTensor::operator Tensor() const {
  Tensor t;
  t.data = memory_.data();
  t.device = gpu().device();
  t.ndim = static_cast<int32_t>(shape_.size());
  t.dtype = dtype_;
  t.shape = shape_.data();
  return t;
}

void GpuTensor::set(const std::function<double(int64_t)>& value) const {
  std::vector<std::byte> host(memory_.size());
  const int64_t size = dtype_.bits / 8;
  for (int64_t n = 0; n < numel(); ++n) reference::store(dtype_, host.data() + n * size, value(n));
  memory_.upload(0, host.data(), host.size());
}

void GpuTensor::set_integers(const std::vector<int64_t>& values) const {
  const std::vector<int32_t> narrow(values.begin(), values.end());
  const bool wide = dtype_ == int64;
  memory_.upload(0, wide ? static_cast<const void*>(values.data()) : narrow.data(), memory_.size());
}

std::vector<double> GpuTensor::values() const {
  const std::vector<std::byte> host = bytes();
  const int64_t size = dtype_.bits / 8;
  std::vector<double> numbers(static_cast<size_t>(numel()));
  for (int64_t n = 0; n < numel(); ++n) {
    numbers[static_cast<size_t>(n)] = reference::load(dtype_, host.data() + n * size);
  }
  return numbers;
}

std::vector<std::byte> GpuTensor::bytes() const {
  std::vector<std::byte> host(memory_.size());
  memory_.download(host.data(), 0, host.size());
  return host;
}

GpuTensor normal(std::vector<int64_t> shape, DType dtype, uint64_t seed) {
  GpuTensor tensor(std::move(shape), dtype);
  check::Random random(seed);
  tensor.set([&](int64_t) { return random.normal(); });
  return tensor;
}

check::Spec problem(const Extents& extents) {
  check::Spec spec;
  spec.offer = &check::cuda_offer;
  spec.seed = 1;
  spec.dtype = bfloat16;
  spec.batch = extents.batch;
  spec.heads_q = extents.heads_q;
  spec.heads_k = extents.heads_k;
  spec.dim = extents.dim;
  spec.dim_v = extents.dim_v > 0 ? extents.dim_v : extents.dim;
  const auto side = [&](int64_t length) {
    check::SideSpec s;
    s.seqlen = length;
    s.extent.assign(static_cast<size_t>(extents.batch), length);
    return s;
  };
  spec.rows = side(extents.rows);
  spec.keys = side(extents.keys);
  return spec;
}

void pack(check::SideSpec& side, std::vector<int64_t> lengths, int64_t tail) {
  side.packed = true;
  side.max_seqlen = *std::max_element(lengths.begin(), lengths.end());
  side.extent = std::move(lengths);
  side.tail = tail;
}

void use(check::SideSpec& side, std::vector<int64_t> counts) {
  side.seqused = true;
  side.used = std::move(counts);
}

std::vector<Family> backward_families(int64_t dim) {
  const bool hopper = cuda::device(0).arch() == "sm_90a" && dim >= 64 && dim <= 256;
  return hopper ? std::vector{Family::sm80, Family::sm90} : std::vector{Family::automatic};
}

std::vector<check::Spec> plain_and_packed() {
  check::Spec causal =
      problem({.batch = 2, .rows = 271, .keys = 301, .heads_q = 4, .heads_k = 2, .dim = 64});
  causal.causal = true;
  check::Spec full = problem({.rows = 300, .keys = 417, .heads_q = 2, .heads_k = 2, .dim = 128});
  full.dtype = float16;
  check::Spec window = problem({.rows = 200, .keys = 301, .heads_q = 4, .dim = 256});
  window.window_left = 70;
  check::Spec packed = problem({.batch = 4, .heads_q = 4, .heads_k = 2, .dim = 96, .dim_v = 40});
  pack(packed.rows, {130, 0, 77, 200}, 9);
  pack(packed.keys, {200, 9, 0, 300}, 3);
  packed.causal = true;
  packed.dropout_p = 0.3;
  return {causal, full, window, packed};
}

void in_parallel(int64_t count, const std::function<void(int64_t)>& f) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t n = next++; n < count; n = next++) {
      try {
        f(n);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "number " << n << " threw: " << error.what();
      }
    }
  };
  const int64_t threads =
      std::min<int64_t>(count, std::max(2U, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int64_t t = 0; t < threads; ++t) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
}

void expect_right(const std::vector<check::Spec>& specs) {
  in_parallel(static_cast<int64_t>(specs.size()), [&](int64_t n) {
    check::Spec spec = specs[static_cast<size_t>(n)];
    spec.index = n;
    GpuPlace place;
    const check::Verdict verdict = check::judge(spec, place);
    record_ratio(verdict.worst_ratio());
    for (const std::string& failure : verdict.failures()) {
      ADD_FAILURE() << spec.text() << "\n" << failure;
    }
  });
}

void run(const check::Case& c, check::Place& place) {
  place.run(c.memory(), [&](const check::Place::Here& here) {
    forward(here(c.forward_args()), here(c.options()), here.stream());
  });
}

size_t workspace_bytes(const check::Case& c, check::Place& place) {
  size_t bytes = 0;
  place.run(c.memory(), [&](const check::Place::Here& here) {
    bytes = plan_forward(here(c.forward_args()), here(c.options())).workspace_bytes();
  });
  return bytes;
}

std::string plan_text(const check::Case& c, check::Place& place) {
  std::string text;
  place.run(c.memory(), [&](const check::Place::Here& here) {
    text = plan_forward(here(c.forward_args()), here(c.options())).text();
  });
  return text;
}

void expect_close(const std::string& name, const std::vector<double>& values, DType dtype,
                  DType precision, const Expected& expected) {
  ASSERT_EQ(values.size(), expected.exact.size()) << name;
  check::TensorVerdict verdict(name, dtype, precision);
  for (size_t n = 0; n < values.size(); ++n) {
    verdict.add({values[n], expected.exact[n], expected.plain[n], expected.abs[n]});
  }
  record_ratio(verdict.ratio());
  EXPECT_TRUE(verdict.right()) << name << ": " << verdict.problem();
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace fa::test
