#include <algorithm>

#include "cpu/kernels.hpp"
#include "cpu/passes.hpp"
#include "cpu/team.hpp"
#include "cpu/threads.hpp"

namespace fa::cpu {

void merge(const MergeCall& call) {
  const ForwardKernels& kernels = forward_kernels();
  const int64_t heads = call.batch * call.heads;
  // For fewer elements a parallel region costs more than the copy.
  constexpr int64_t elements_per_thread = 1 << 16;
  const int64_t most = std::min(heads, heads * call.seqlen * call.head_dim / elements_per_thread);
  const Team team(most > 1 ? static_cast<int>(std::min<int64_t>(most, default_threads())) : 1);
  team.run([&] {
    team.evenly(heads,
                [&](int64_t unit) { kernels.merge(call, unit / call.heads, unit % call.heads); });
  });
}

}  // namespace fa::cpu
