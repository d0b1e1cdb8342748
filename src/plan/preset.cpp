#include "plan/preset.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "plan/cuda_plan.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

/// A language model's attention of one kind; long and short sequences may have kernels of their
/// own.
struct Use {
  int64_t seqlen_q;
  int64_t seqlen_k;
  int64_t batch;
  bool causal;
  bool packed = false;
  bool used_k = false;  ///< a cache, of which seqused_k tells how much counts
  bool lse = true;
};

Problem problem_of(const Use& use, DType dtype, int64_t head_dim) {
  Problem p;
  p.device = {cuda_device, 0};
  p.dtype = dtype;
  p.batch = use.batch;
  p.heads_q = 32;
  p.heads_k = 8;
  p.head_dim = p.head_dim_v = head_dim;
  p.seqlen_q = use.seqlen_q;
  p.seqlen_k = use.seqlen_k;
  p.tokens_q = use.batch * use.seqlen_q;
  p.tokens_k = use.batch * use.seqlen_k;
  p.packed_q = p.packed_k = use.packed;
  p.used_k = use.used_k;
  p.window_right = use.causal ? 0 : -1;
  p.lse = use.lse;
  return p;
}

void add(std::vector<KernelSpec>& kernels, const KernelSpec& kernel) {
  if (std::find(kernels.begin(), kernels.end(), kernel) == kernels.end()) kernels.push_back(kernel);
}

/// Training and inference of GPT-style models: head_dim 64, 128 and 256, causal or not, batched or
/// packed, and decoding from a cache, few sequences (whose keys are split) or many.
std::vector<KernelSpec> llm(const GpuLimits& gpu) {
  constexpr Use uses[] = {
      {.seqlen_q = 512, .seqlen_k = 512, .batch = 32, .causal = false},
      {.seqlen_q = 8192, .seqlen_k = 8192, .batch = 2, .causal = false},
      {.seqlen_q = 512, .seqlen_k = 512, .batch = 32, .causal = true},
      {.seqlen_q = 8192, .seqlen_k = 8192, .batch = 2, .causal = true},
      {.seqlen_q = 8192, .seqlen_k = 8192, .batch = 2, .causal = true, .lse = false},
      {.seqlen_q = 8192, .seqlen_k = 8192, .batch = 8, .causal = true, .packed = true},
      {.seqlen_q = 8192,
       .seqlen_k = 8192,
       .batch = 8,
       .causal = true,
       .packed = true,
       .lse = false},
      {.seqlen_q = 1, .seqlen_k = 8192, .batch = 1, .causal = false, .used_k = true, .lse = false},
      {.seqlen_q = 1, .seqlen_k = 8192, .batch = 64, .causal = false, .used_k = true, .lse = false},
      {.seqlen_q = 1, .seqlen_k = 8192, .batch = 1, .causal = true, .used_k = true},
      {.seqlen_q = 1, .seqlen_k = 8192, .batch = 64, .causal = true, .used_k = true},
  };
  std::vector<KernelSpec> kernels;
  for (const DType dtype : {bfloat16, float16}) {
    for (const int64_t head_dim : {64, 128, 256}) {
      for (const Use& use : uses) {
        const CudaPlan plan = plan_cuda(problem_of(use, dtype, head_dim), gpu);
        add(kernels, plan.forward);
        if (plan.combine) add(kernels, *plan.combine);
      }
    }
    add(kernels, merge_kernel(dtype));
  }
  return kernels;
}

}  // namespace

std::vector<std::string> presets() { return {"llm"}; }

std::vector<KernelSpec> preset_kernels(const std::string& preset, const std::string& arch) {
  if (preset != "llm") {
    fail(Status::invalid_argument, "preset", "is \"{}\"; allowed are {}", preset,
         fmt::join(presets(), ", "));
  }
  const GpuLimits* gpu = known_gpu(arch);
  if (gpu == nullptr) {
    std::vector<std::string> known;
    for (const GpuLimits& limits : known_gpus()) known.push_back(limits.arch);
    fail(Status::invalid_argument, "arch", "is \"{}\"; allowed are {}", arch,
         fmt::join(known, ", "));
  }
  return llm(*gpu);
}

}  // namespace fa
