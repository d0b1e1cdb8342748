// The launches of a planned forward pass.
#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"

namespace fa::cuda {

namespace {

kernel::ForwardParams forward_params(const CudaForwardPlan& plan, const Call& call,
                                     void* workspace) {
  const Problem& p = plan.problem;
  kernel::ForwardParams params = common_params(p, call, plan.row_tiles, plan.section);
  params.split_keys = plan.split_keys;
  params.partial_rows = plan.partial_rows;
  params.partial_out = static_cast<float*>(workspace);
  params.partial_lse = params.partial_out + plan.splits * plan.partial_rows * p.head_dim_v;
  return params;
}

/// Of what the blocks with `rows` wrote.
kernel::CombineParams combine_params(const CudaForwardPlan& plan,
                                     const kernel::ForwardParams& rows) {
  const Problem& p = plan.problem;
  return {rows.partial_out,   rows.partial_lse,
          plan.partial_rows,  plan.splits,
          rows.out,           rows.lse,
          rows.sinks,         p.q.packed ? 1 : rows.batch,
          rows.heads_q.value, p.q.packed ? p.q.tokens : p.q.seqlen};
}

}  // namespace

void PlannedForward::launch_all(const Call& call, void* workspace, void* stream) const {
  const kernel::ForwardParams rows = forward_params(plan_, call, workspace);
  for (size_t index = 0; index < plan_.launches.size(); ++index) {
    if (plan_.launches[index].over == Over::splits) {
      const kernel::CombineParams splits = combine_params(plan_, rows);
      launch(index, &splits, stream);
    } else {
      launch(index, &rows, stream);
    }
  }
}

}  // namespace fa::cuda
