// What the tests of a GPU share: its memory, its streams, problems made by hand and their verdict.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "check/accelerator.hpp"
#include "check/generate.hpp"
#include "check/place.hpp"
#include "check/spec.hpp"
#include "check/verdict.hpp"
#include "cuda/runtime/memory.hpp"
#include "fa/attention.hpp"
#include "reference/reference.hpp"

namespace fa::test {

/// CUDA device 0.
check::Accelerator& gpu();

/// A mirror on the device: canaries around every tensor, or with FA_TEST_OWN_ALLOCATIONS=1 each in
/// memory of its own, for compute-sanitizer.
class GpuPlace : public check::Place {
 public:
  GpuPlace();
};

/// A stream that the default stream does not wait for.
class GpuStream : public cuda::Stream {
 public:
  GpuStream() : cuda::Stream(0) {}
  operator fa::Stream() const { return get(); }  // NOLINT(google-explicit-constructor)
};

/// Device memory, every byte 0xff at first: NaN in all float types.
class GpuMemory {
 public:
  explicit GpuMemory(size_t bytes);
  std::byte* data() const { return buffer_.data(); }
  size_t size() const { return size_; }
  void fill(unsigned char byte) const;
  void upload(size_t at, const void* from, size_t bytes) const;
  void download(void* to, size_t at, size_t bytes) const;

 private:
  size_t size_;
  cuda::Buffer buffer_;
};

/// A contiguous tensor in device memory. What reads or writes it from the host does not wait for
/// calls in streams.
class GpuTensor {
 public:
  GpuTensor(std::vector<int64_t> shape, DType dtype);
  operator Tensor() const;  // NOLINT(google-explicit-constructor): passed where a Tensor is asked
  int64_t numel() const;
  const std::vector<int64_t>& shape() const { return shape_; }
  void* data() const { return memory_.data(); }
  void poison() const { memory_.fill(0xff); }
  void set(const std::function<double(int64_t n)>& value) const;
  void set_integers(const std::vector<int64_t>& values) const;
  std::vector<double> values() const;
  std::vector<std::byte> bytes() const;

 private:
  std::vector<int64_t> shape_;
  DType dtype_;
  GpuMemory memory_;
};

/// Standard-normal numbers.
GpuTensor normal(std::vector<int64_t> shape, DType dtype, uint64_t seed);

/// A batch of equal sequences in bfloat16, contiguous; a test changes what it is about.
struct Extents {
  int64_t batch = 1, rows = 0, keys = 0, heads_q = 1, heads_k = 1, dim = 64, dim_v = 0;
};
check::Spec problem(const Extents& extents);
/// The sequences of a side packed, with `tail` rows of none behind them.
void pack(check::SideSpec& side, std::vector<int64_t> lengths, int64_t tail = 0);
/// Gives each sequence the number of its rows that count (seqused).
void use(check::SideSpec& side, std::vector<int64_t> counts);

/// The families that serve a backward pass of this head_dim on this GPU, where there are two;
/// else none is named.
std::vector<Family> backward_families(int64_t dim);

/// A tile of each of three classes, and packed sequences: what every kernel must get right again
/// and again.
std::vector<check::Spec> plain_and_packed();

/// Calls f(n) for n < count from several threads, so that kernels are compiled in parallel. An
/// exception of f fails the test.
void in_parallel(int64_t count, const std::function<void(int64_t n)>& f);

/// Each problem against float64, inputs unharmed, nothing written outside of outputs.
void expect_right(const std::vector<check::Spec>& specs);

/// A forward call of a problem in a place.
void run(const check::Case& c, check::Place& place);
/// The workspace of the case's plan: not 0 where the keys are split.
size_t workspace_bytes(const check::Case& c, check::Place& place);
/// What `fa info --plan` says of the case's forward pass.
std::string plan_text(const check::Case& c, check::Place& place);

/// Numbers of a tensor against the reference's, judged as a whole; `precision` is q's dtype. The
/// worst error / bound of a test is written into its report.
struct Expected {
  const std::vector<double>&exact, &plain, &abs;
};
void expect_close(const std::string& name, const std::vector<double>& values, DType dtype,
                  DType precision, const Expected& expected);

/// The message of the Error that `call` must throw.
std::string error_of(const std::function<void()>& call);

}  // namespace fa::test
