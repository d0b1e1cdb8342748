#include "plan/cuda/preset.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"
#include "problem/argument.hpp"
#include "system/shown.hpp"

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
  int64_t heads_k = 8;  ///< for 32 query heads
};

Problem problem_of(const Use& use, DType dtype, int64_t head_dim) {
  Problem p;
  p.device = {cuda_device, 0};
  p.dtype = dtype;
  p.batch = use.batch;
  p.q.heads = 32;
  p.k.heads = use.heads_k;
  p.head_dim = p.head_dim_v = head_dim;
  p.q.seqlen = use.seqlen_q;
  p.k.seqlen = use.seqlen_k;
  p.q.tokens = use.batch * use.seqlen_q;
  p.k.tokens = use.batch * use.seqlen_k;
  p.q.packed = p.k.packed = use.packed;
  p.k.used = use.used_k;
  p.score.window_right = use.causal ? 0 : -1;
  return p;
}

void add(std::vector<KernelSpec>& kernels, const KernelSpec& kernel) {
  if (std::find(kernels.begin(), kernels.end(), kernel) == kernels.end()) kernels.push_back(kernel);
}
void add(std::vector<KernelSpec>& kernels, const CudaPlan& plan) {
  for (const Launch& launch : plan.launches) add(kernels, launch.kernel);
}

/// The uses that have a kernel of their own at some head_dim: each length, batched and packed. With
/// 500, 1024 and 8100 keys the last block has unused ones, with 512 and 1536 it has none; beyond
/// 2048 dQ is summed otherwise on Hopper.
std::vector<Use> uses() {
  std::vector<Use> all;
  for (const bool causal : {false, true}) {
    for (const int64_t seqlen : {250, 500, 512, 1024, 1536, 2048, 8100, 8192}) {
      const Use plain{
          .seqlen_q = seqlen, .seqlen_k = seqlen, .batch = 16384 / seqlen, .causal = causal};
      all.push_back(plain);
      Use packed = plain;
      packed.packed = true;
      all.push_back(packed);
      // From a cache: a chunk of a prompt, and one token of few sequences (whose keys are split) or
      // of many, with and without heads that share keys.
      for (const auto& [rows, batch] : {std::pair{512, 32}, {1, 1}, {1, 64}}) {
        for (const int64_t heads_k : {8, 32}) {
          Use cached = plain;
          cached.seqlen_q = rows;
          cached.batch = batch;
          cached.used_k = true;
          cached.heads_k = heads_k;
          all.push_back(cached);
        }
      }
    }
  }
  return all;
}

constexpr int64_t head_dims[] = {64, 128, 256, 512};
/// Few models have 512, all of them causal.
bool is_common(const Use& use, int64_t head_dim) { return head_dim < 512 || use.causal; }

/// Training and inference of GPT-style models: causal or not, batched or packed, and from a cache.
std::vector<KernelSpec> llm(const GpuLimits& gpu) {
  std::vector<KernelSpec> kernels;
  for (const DType dtype : {bfloat16, float16}) {
    for (const int64_t head_dim : head_dims) {
      for (const Use& use : uses()) {
        if (!is_common(use, head_dim)) continue;
        add(kernels, plan_cuda_forward(problem_of(use, dtype, head_dim), gpu));
      }
    }
    add(kernels, merge_kernel(dtype));
  }
  return kernels;
}

/// Their backward passes.
std::vector<KernelSpec> llm_backward(const GpuLimits& gpu) {
  std::vector<KernelSpec> kernels;
  for (const DType dtype : {bfloat16, float16}) {
    for (const int64_t head_dim : head_dims) {
      for (const Use& use : uses()) {
        if (!is_common(use, head_dim) || use.used_k) continue;  // a cache is for inference
        Problem problem = problem_of(use, dtype, head_dim);
        problem.pass = Pass::backward;
        // Two blocks for a tile of keys, as in a small batch: with the kernel that ends their sums.
        // How many they are changes no other kernel.
        add(kernels, plan_cuda_backward(problem, gpu, {.parts = 2}));
      }
    }
  }
  return kernels;
}

}  // namespace

std::vector<std::string> presets() { return {"llm", "llm-backward"}; }

std::vector<KernelSpec> preset_kernels(const std::string& preset, const std::string& arch) {
  const std::vector<std::string> names = presets();
  if (std::ranges::find(names, preset) == names.end()) {
    fail(Status::invalid_argument, "preset", "is \"{}\"; allowed are {}", system::shown(preset),
         fmt::join(names, ", "));
  }
  const GpuLimits* gpu = known_gpu(arch);
  if (gpu == nullptr) {
    std::vector<std::string> known;
    for (const GpuLimits& limits : known_gpus()) known.push_back(limits.arch);
    fail(Status::invalid_argument, "arch", "is \"{}\"; allowed are {}", system::shown(arch),
         fmt::join(known, ", "));
  }
  return preset == "llm" ? llm(*gpu) : llm_backward(*gpu);
}

}  // namespace fa
