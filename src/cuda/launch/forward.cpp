// The launches of a planned forward pass.
#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/launch/tensor_maps.hpp"

namespace fa::cuda {

namespace {

kernel::ForwardParams forward_params(const CudaForwardPlan& plan, const Call& call,
                                     void* workspace) {
  const Problem& p = plan.problem;
  auto params = params_of<kernel::ForwardParams>(p, call);
  params.order = order(p, p.q.heads / plan.cut.heads, plan.row_tiles, plan.section);
  auto* out = static_cast<float*>(workspace);
  float* lse = out + plan.splits * plan.partial_rows * p.head_dim_v;
  params.partial = {plan.split_keys, out, lse, plan.partial_rows};
  return params;
}

kernel::TiledForwardParams tiled_params(const CudaForwardPlan& plan, const Call& call,
                                        const kernel::ForwardParams& rows, void* workspace) {
  const Problem& p = plan.problem;
  kernel::TiledForwardParams params{
      .q = {},
      .k = {},
      .v = {},
      .out = {},
      .bias = {},
      .forward = rows,
      .blocks = kernel::Divisor(plan.blocks),
      .tiles = plan.blocks * plan.splits,
      .side_by_side = {kernel::Divisor(plan.cut.heads), kernel::Divisor(plan.cut.rows)},
      .counter = nullptr,
      .launch = 0};
  if (p.alignment == 16) {  // else the kernel asks for no map
    make_tensor_map(params.q, call.q, p.q, p.batch, p.head_dim,
                    {.rows = plan.cut.rows, .heads = plan.cut.heads});
    make_tensor_map(params.k, call.k, p.k, p.batch, p.head_dim, {.rows = plan.cut.keys});
    make_tensor_map(params.v, call.v, p.k, p.batch, p.head_dim_v, {.rows = plan.cut.keys});
    if (plan.copies_out)
      make_tensor_map(params.out, call.out, p.q, p.batch, p.head_dim_v, {.rows = 16});
    if (plan.bias_box_rows > 0) make_bias_map(params.bias, call.bias, p, plan.bias_box_rows);
  }
  if (plan.claims) {
    params.counter = reinterpret_cast<kernel::TileCounter*>(static_cast<char*>(workspace) +
                                                            plan.workspace_bytes) -
                     1;
    params.launch = number_of_launch();
  }
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
    switch (plan_.launches[index].over) {
      case Over::splits: {
        const kernel::CombineParams splits = combine_params(plan_, rows);
        launch(index, &splits, stream);
        break;
      }
      case Over::tiles: {
        const kernel::TiledForwardParams tiles = tiled_params(plan_, call, rows, workspace);
        launch(index, &tiles, stream);
        break;
      }
      default:
        launch(index, &rows, stream);
    }
  }
}

}  // namespace fa::cuda
