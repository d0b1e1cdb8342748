#include "cpu/kernels.hpp"
#include "cpu/passes.hpp"

namespace fa::cpu {

void merge(const MergeCall& call) {
  const ForwardKernels& kernels = forward_kernels();
  const int64_t heads = call.batch * call.heads;
  // Some 2^16 elements for a thread: below, a parallel region costs more than the copy.
  const bool parallel = heads * call.seqlen * call.head_dim > (1 << 17);
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t unit = 0; unit < heads; ++unit) {
    kernels.merge(call, unit / call.heads, unit % call.heads);
  }
}

}  // namespace fa::cpu
