// FlashAttention.cpp: exact attention, forward and backward, in memory linear in the sequence.
//
// The algorithm is FlashAttention-2 (T. Dao, 2023, arXiv:2307.08691); docs/algorithm.md walks
// through it, docs/numerics.md says what is computed to the letter. The C ABI is in fa/fa.h.
//
// Shapes, throughout (B batch, S sequence length, H heads, D head_dim, T tokens of all sequences):
//   query   q   [B, Sq, Hq, D]    or packed [Tq, Hq, D]  with cu_seqlens_q
//   key     k   [B, Sk, Hk, D]    or packed [Tk, Hk, D]  with cu_seqlens_k
//   value   v   [B, Sk, Hk, Dv]   or packed [Tk, Hk, Dv]
//   output  out [B, Sq, Hq, Dv]   or packed [Tq, Hq, Dv]
//   lse         [B, Hq, Sq]       or packed [Hq, Tq]     float32, natural logarithm
// Query head h reads key head h / (Hq / Hk). D and Dv are multiples of 8 from 8 to 512,
// independent of each other; D = 576 with Dv = 512 is allowed as well. q, k, v, out and their
// gradients share one dtype: float32, float16 or bfloat16. Sums, LSE and statistics are float32.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__GNUC__)
#define FA_API __attribute__((visibility("default")))
#else
#define FA_API
#endif

namespace fa {

/// Where a tensor lives; the numbers are DLPack's (kDLCPU = 1, kDLCUDA = 2).
struct Device {
  int32_t type = 1;
  int32_t id = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

/// Element type; code, bits and lanes are DLPack's (code 0 signed integer, 2 float, 4 bfloat).
struct DType {
  uint8_t code = 2;
  uint8_t bits = 32;
  uint16_t lanes = 1;
  friend bool operator==(const DType&, const DType&) = default;
};
inline constexpr DType float32{2, 32, 1};
inline constexpr DType float16{2, 16, 1};
inline constexpr DType bfloat16{4, 16, 1};
inline constexpr DType int32{0, 32, 1};
inline constexpr DType int64{0, 64, 1};

/// A non-owning view, laid out as DLPack's DLTensor. Strides count elements; null strides mean
/// contiguous (row major). A default-constructed Tensor (null shape) means "not given". It points
/// to its shape and strides: keep them while it is used, or keep a View. Any strides are taken as
/// long as the last dimension's is 1 (or its extent is at most 1).
struct Tensor {
  void* data = nullptr;
  Device device{};
  int32_t ndim = 0;
  DType dtype{};
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;
  uint64_t byte_offset = 0;

  bool given() const { return shape != nullptr; }
};

/// A Tensor with shape and strides of its own: it may outlive those that it is made of. A Tensor,
/// and what converts to one, becomes a View where one is asked for. `data` is not written through
/// unless the tensor is an output of the call.
class View : public Tensor {
 public:
  static constexpr int max_dims = 8;

  View() = default;  ///< "not given"
  /// Throws Error (invalid_argument) when there are more than max_dims dimensions, or when
  /// `strides` is neither empty nor as long as `shape`.
  FA_API View(const void* data, DType dtype, std::initializer_list<int64_t> shape,
              std::initializer_list<int64_t> strides = {}, Device device = {});
  FA_API View(const void* data, DType dtype, const int64_t* shape, const int64_t* strides,
              int32_t ndim, Device device = {});
  /// Never throws: a tensor of more dimensions than there is room for keeps none of them, and every
  /// function refuses it.
  View(const Tensor& tensor) noexcept  // NOLINT(google-explicit-constructor)
      : Tensor(tensor) {
    own();
  }
  template <typename T>
    requires std::convertible_to<const T&, Tensor> && (!std::derived_from<T, Tensor>)
  View(const T& tensor)  // NOLINT(google-explicit-constructor): passed where a Tensor is asked for
      : View(static_cast<const Tensor&>(static_cast<Tensor>(tensor))) {}
  View(const View& other) noexcept : View(static_cast<const Tensor&>(other)) {}
  View& operator=(const View& other) noexcept {
    if (this != &other) {
      Tensor::operator=(other);
      own();
    }
    return *this;
  }
  ~View() = default;

 private:
  void own() noexcept {
    shape = owned(shape, shape_);
    strides = owned(strides, strides_);
  }
  const int64_t* owned(const int64_t* from, int64_t* room) const noexcept {
    if (from == nullptr) return nullptr;
    if (ndim <= max_dims) {
      for (int32_t d = 0; d < ndim; ++d) room[d] = from[d];
    }
    return room;
  }

  int64_t shape_[max_dims];
  int64_t strides_[max_dims];
};

/// What went wrong, as in the C ABI's fa_status.
enum class Status : int32_t {
  ok = 0,
  invalid_argument = 1,  ///< a shape, stride, length or value that is not allowed
  wrong_type = 2,        ///< a dtype that is not allowed
  unsupported = 3,       ///< valid, but not offered (on this device)
  out_of_memory = 4,
  internal = 5,
};

/// Every error of the library. what() names the argument, its value and what is allowed; when it
/// is thrown for an argument, no output has been written.
class FA_API Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message);
  ~Error() override;
  Status status() const { return status_; }

 private:
  Status status_;
};

/// Kernels of CUDA devices: chosen by the plan, mma.sync (A100 and later), or wgmma (Hopper; its
/// backward pass has no bias's gradient beside a softcap beyond head_dim 128). The CPU takes any
/// and has its own.
enum class Family : int32_t { automatic = 0, sm80 = 1, sm90 = 2 };

/// What is computed. Default: softmax(q k^T / sqrt(D)) v, every query sees every key.
///
/// Score of query i and key j (numbered within their own sequence, Sq and Sk after `seqused`):
///   s = scale * <q_i, k_j>;  s = softcap * tanh(s / softcap);  s -= slope * |i + Sk - Sq - j|;
///   s += bias_ij;  s = -inf where masked.
struct Options {
  /// Factor of the scores; any finite number, 1 / sqrt(D) when not given.
  std::optional<double> scale{};
  /// Query i sees key j only if j <= i + Sk - Sq (aligned to the bottom right).
  bool causal = false;
  /// Query i sees key j only if -window_left <= j - (i + Sk - Sq) <= window_right. A negative side
  /// is unbounded. `causal` sets the right side to 0.
  int64_t window_left = -1;
  int64_t window_right = -1;
  /// Scores are capped to (-softcap, softcap); 0 is off (Gemma 2).
  double softcap = 0;
  /// Probability with which an element of P is dropped, 0 <= p < 1; what is kept is divided by
  /// 1 - p. The decision for (sequence, head, i, j) is Philox4x32-7 of (seed, offset): the same in
  /// forward and backward, on every device (docs/numerics.md).
  double dropout_p = 0;
  uint64_t dropout_seed = 0;
  uint64_t dropout_offset = 0;
  /// int64 [2] = (seed, offset) in memory of the device, instead of the two numbers above.
  View dropout_state{};
  /// float32 [Hq] or [B, Hq] (ALiBi, Press et al. 2022).
  View alibi_slopes{};
  /// q's dtype or float32, [B or 1, Hq or 1, Sq or 1, Sk], -inf masks. Not with packed sequences.
  View bias{};
  /// q's dtype or float32, [Hq]: a logit in the softmax's denominator only; LSE includes it.
  View sinks{};
  /// int32 [B + 1], from 0, never falling, at most T: where the packed sequences begin. Either
  /// side may be packed. max_seqlen_* is needed with it: no sequence may be longer.
  View cu_seqlens_q{};
  View cu_seqlens_k{};
  int64_t max_seqlen_q = 0;
  int64_t max_seqlen_k = 0;
  /// int32 [B]: how many rows or keys of each sequence count. What lies beyond is never read; out,
  /// dq, dk, dv and dbias are 0 there, lse is -inf.
  View seqused_q{};
  View seqused_k{};
  /// int32 [B, N]: k and v lie in pages, [pages, page_size, Hk, D], and key j of sequence b is row
  /// j % page_size of page page_table[b, j / page_size]. A sequence has N * page_size keys, of
  /// which seqused_k says how many count. Numbers of pages behind those are not read. Sequences may
  /// share pages. Forward only, and not with cu_seqlens_k. Nobody checks the numbers on a GPU:
  /// those of no page are taken for the nearest one.
  View page_table{};
  /// Same bits run to run, and same bits whatever stands beside a sequence in the batch. On the
  /// CPU both always hold, for any number of threads.
  bool deterministic = false;
  bool batch_invariant = false;
  /// CPU threads, at most 4096; 0 is the default (docs/api.md). No more run than there is work for.
  int32_t num_threads = 0;
  Family family = Family::automatic;
};

// An output needs memory of its own: it may share none with an input or another output, nor may its
// elements with each other. That is checked to the byte, whatever the strides. (Should two tensors
// lie between each other's rows by strides so unlike that thousands of steps do not decide it, the
// call is refused.)

/// The tensors of a forward pass. `lse` may be left out.
struct ForwardArgs {
  View q, k, v;
  View out, lse;
};

/// The tensors of a backward pass; out and lse are those of the forward pass.
struct BackwardArgs {
  View dout, q, k, v, out, lse;
  View dq, dk, dv;  ///< shapes and dtype of q, k, v
  View dlse{};      ///< optional input, float32, lse's shape: the gradient of the loss by lse
  View dbias{};     ///< optional output, float32 or bias's dtype, bias's shape
  View dsinks{};    ///< optional output, float32 or sinks's dtype, [Hq]
};

/// A device's queue; null for the CPU and for CUDA's default stream.
using Stream = void*;

/// out = softmax(scores) v and lse = log(sum(exp(scores))), Algorithm 1 of the paper.
/// A row that sees no key has out = 0 and lse = -inf (or its sink).
/// Throws Error; then nothing has been written.
FA_API void forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                    const Tensor& lse, const Options& options = {}, Stream stream = nullptr);
FA_API void forward(const ForwardArgs& args, const Options& options = {}, Stream stream = nullptr);

/// The gradients by q, k and v (Algorithm 2 of the paper), and those by bias, sinks and through
/// lse where their tensors are given. Every output is overwritten. Throws Error.
FA_API void backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& dq, const Tensor& dk,
                     const Tensor& dv, const Options& options = {}, Stream stream = nullptr);
FA_API void backward(const BackwardArgs& args, const Options& options = {},
                     Stream stream = nullptr);

/// Joins two attentions of the same queries over disjoint keys (ring attention, cascades, splits):
///   lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b.
/// Shapes as `out` and `lse` above, [B, Sq, Hq, Dv] and [B, Hq, Sq] or [Tq, Hq, Dv] and [Hq, Tq].
/// out may be the very tensor out_a or out_b, and lse lse_a or lse_b. A sink belongs to one of the
/// parts only, or it would count twice. A row with lse -inf or +inf is absent. Throws Error.
FA_API void merge(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                  const Tensor& lse_b, const Tensor& out, const Tensor& lse,
                  Stream stream = nullptr);

namespace detail {
struct PlanState;
}

/// How a problem will be run: decided once from shapes, dtypes and options, run often on any
/// tensors of these. Copies share their state; a Plan may be used by many threads at once. One that
/// no plan_* function has made is empty: its functions throw.
class FA_API Plan {
 public:
  /// Bytes that `run` needs beside the tensors. The workspace must be 64-byte aligned; its content
  /// does not matter.
  size_t workspace_bytes() const;
  /// The plan in words, one `name: value` a line.
  std::string text() const;
  /// Compiles and loads what a run will need, so that the first one is fast and may be captured. On
  /// the CPU there is nothing to do.
  void prepare() const;
  /// Runs without allocating. Dropout's seed and offset, and the contents of all tensors, may
  /// differ from call to call; shapes, dtypes and the other options may not, and on CUDA devices no
  /// tensor's rows may be aligned to fewer bytes than planned (to 16 where pointers were null, also
  /// a bias's). Throws Error when they are, when `bytes` is less than workspace_bytes(), or when
  /// the workspace shares memory with a tensor. Name the struct in the call:
  /// `plan.run(fa::ForwardArgs{q, k, v, out, lse}, options, workspace, bytes)`.
  void run(const ForwardArgs& args, const Options& options, void* workspace, size_t bytes,
           Stream stream = nullptr) const;
  void run(const BackwardArgs& args, const Options& options, void* workspace, size_t bytes,
           Stream stream = nullptr) const;

 private:
  friend FA_API Plan plan_forward(const ForwardArgs&, const Options&);
  friend FA_API Plan plan_backward(const BackwardArgs&, const Options&);
  const detail::PlanState& state() const;
  std::shared_ptr<const detail::PlanState> state_;
};

/// Plans a pass. The tensors give shapes, strides, dtypes and device; the data pointers of
/// everything but lengths on the host may be null. Throws Error.
FA_API Plan plan_forward(const ForwardArgs& args, const Options& options = {});
FA_API Plan plan_backward(const BackwardArgs& args, const Options& options = {});

/// Frees the memory that the convenience calls keep for their next workspace.
FA_API void release_memory();

/// The instruction set of the CPU kernels ("avx3_bf16", "avx3", "avx2", ...), and all that this CPU
/// can run, best first, separated by spaces. The environment variable FA_CPU_TARGET names another
/// one to be used instead; it is read once, at first use, and a name that cannot be had is an
/// Error.
FA_API const char* cpu_target();
FA_API const char* cpu_targets();

/// What the library finds of CUDA, one `name: value` a line: driver, devices, NVRTC, the cache of
/// compiled kernels, bundles, and why something is missing (docs/cuda.md).
FA_API std::string cuda_info();

/// Compiles a preset of kernels ahead ("llm", and for training "llm-backward") for some
/// architectures ("sm_80", "sm_90a") into one file. Programs that run with FA_BUNDLE=path need no
/// NVRTC and no cache. No device is needed.
/// `threads`: 0 is one for each core. `progress` is called by one thread at a time. Throws Error,
/// and then writes nothing.
struct CompiledKernel {
  std::string arch;           ///< "sm_90a"
  std::string name;           ///< "fa_sm80_forward"
  std::string constants;      ///< that it is compiled with: "element=bfloat16 head_dim=128 ..."
  int32_t threads = 0;        ///< of a block
  int32_t registers = 0;      ///< of a thread
  int32_t spill_bytes = 0;    ///< of a thread: what its registers do not hold
  int32_t shared_bytes = 0;   ///< of a block
  int32_t blocks_per_sm = 0;  ///< that a multiprocessor runs at once
  std::string code;           ///< a digest of its instructions: the same code has the same
};
struct BundleSize {
  int64_t kernels = 0;
  int64_t bytes = 0;
  std::vector<CompiledKernel> each;
};
FA_API BundleSize compile_bundle(
    const std::string& path, const std::string& preset, const std::vector<std::string>& archs,
    int32_t threads = 0, const std::function<void(int64_t done, int64_t total)>& progress = {});
/// The kernels that it compiles, one a line.
FA_API std::vector<std::string> bundle_kernels(const std::string& preset,
                                               const std::vector<std::string>& archs);

/// "major.minor.patch".
FA_API const char* version();

}  // namespace fa
