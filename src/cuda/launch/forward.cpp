// The launches of a planned forward pass.
#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"

namespace fa::cuda {

namespace {

kernel::ForwardParams forward_params(const CudaForwardPlan& plan, const Call& call,
                                     void* workspace) {
  const Problem& p = plan.problem;
  auto params = params_of<kernel::ForwardParams>(p, call);
  params.order = order(p, p.q.heads, plan.row_tiles, plan.section);
  auto* out = static_cast<float*>(workspace);
  float* lse = out + plan.splits * plan.partial_rows * p.head_dim_v;
  params.partial = {plan.split_keys, out, lse, plan.partial_rows};
  return params;
}

/// Joins the results of the blocks that were launched with `rows`.
kernel::CombineParams combine_params(const CudaForwardPlan& plan,
                                     const kernel::ForwardParams& rows) {
  const Problem& p = plan.problem;
  return {rows.partial,      plan.splits,
          rows.operands.out, rows.operands.lse,
          rows.score.sinks,  p.q.packed ? 1 : rows.order.batch,
          rows.heads.query,  p.q.packed ? p.q.tokens : p.q.seqlen};
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
