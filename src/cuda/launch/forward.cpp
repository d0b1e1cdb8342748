// The launch of a planned forward pass.
#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"

namespace fa::cuda {

namespace {

kernel::ForwardParams forward_params(const CudaPlan& plan, const Call& call, void* workspace) {
  const Problem& p = plan.problem;
  kernel::ForwardParams params = common_params(p, call, plan.row_tiles, plan.section);
  params.split_keys = plan.split_keys;
  params.partial_rows = plan.partial_rows;
  params.partial_out = static_cast<float*>(workspace);
  params.partial_lse = params.partial_out + plan.splits * plan.partial_rows * p.head_dim_v;
  return params;
}

}  // namespace

void PlannedForward::prepare() const {
  if (empty()) return;
  forward_.get(plan_.forward, device());
  if (plan_.combine) combine_.get(*plan_.combine, device());
}

void PlannedForward::launch_all(const Call& call, void* workspace, void* stream) const {
  prepare();  // both kernels, before the first is launched
  kernel::ForwardParams params = forward_params(plan_, call, workspace);
  const Grid grid{static_cast<unsigned>(plan_.blocks), static_cast<unsigned>(plan_.splits),
                  static_cast<unsigned>(plan_.tile.value_slices)};
  launch(forward_.get(plan_.forward, device()), plan_.forward, grid, &params, stream);
  if (!plan_.combine) return;
  const Problem& p = plan_.problem;
  kernel::CombineParams joined{params.partial_out,   params.partial_lse,
                               plan_.partial_rows,   plan_.splits,
                               params.out,           params.lse,
                               params.sinks,         p.packed_q ? 1 : params.batch,
                               params.heads_q.value, p.packed_q ? p.tokens_q : p.seqlen_q};
  launch(combine_.get(*plan_.combine, device()), *plan_.combine, {blocks_of(plan_.partial_rows)},
         &joined, stream);
}

}  // namespace fa::cuda
