// The launches of a planned forward pass.
#include <algorithm>
#include <climits>

#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/launch/tensor_maps.hpp"

namespace fa::cuda {

namespace {

/// None where the tiles are not shared.
kernel::Shares shares_of(const CudaForwardPlan& plan, void* workspace) {
  if (plan.shares == 0) return {};
  auto* tiles =
      reinterpret_cast<kernel::SharedTile*>(static_cast<char*>(workspace) + plan.shared_tiles);
  return {.heads = static_cast<int>(plan.problem.q.heads / plan.cut.heads),
          .tile_heads = plan.cut.heads,
          .positions = kernel::Divisor(plan.cut.rows),
          .most = plan.shares,
          .tiles = tiles,
          .count = reinterpret_cast<int*>(tiles + plan.shares)};
}

kernel::ForwardParams forward_params(const CudaForwardPlan& plan, const Call& call,
                                     void* workspace) {
  const Problem& p = plan.problem;
  auto params = params_of<kernel::ForwardParams>(p, call);
  params.order = order(p, p.q.heads / plan.cut.heads, plan.row_tiles, plan.section);
  auto* out = static_cast<float*>(workspace);
  const int64_t parts = plan.shares > 0 ? 2 * plan.shares : plan.splits;
  float* lse = out + parts * plan.partial_rows * p.head_dim_v;
  params.partial = {plan.split_keys, out, lse, plan.partial_rows};
  if (p.k.page_size > 0) {
    params.pages = {.numbers = reinterpret_cast<const int*>(call.page_table.data),
                    .batch = call.page_table.batch,
                    .page = call.page_table.row,
                    .size = kernel::Divisor(static_cast<int>(p.k.page_size)),
                    .last = static_cast<int>(std::min<int64_t>(call.page_count, INT_MAX)) - 1};
  }
  return params;
}

/// Maps of all pages of a cache, as of so many sequences.
void make_page_maps(kernel::TiledForwardParams& params, const CudaForwardPlan& plan,
                    const Call& call) {
  const Problem& p = plan.problem;
  const bool whole = plan.page_rows == plan.cut.keys;
  const Box box{.rows = plan.page_rows, .one_panel = !whole};
  Side page = p.k;
  page.seqlen = call.page_count > 0 ? p.k.page_size : 0;
  make_tensor_map(params.k, call.k, page, call.page_count, p.head_dim, box);
  make_tensor_map(params.v, call.v, page, call.page_count, p.head_dim_v, box);
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
      .launch = 0,
      .shares = shares_of(plan, workspace)};
  if (p.alignment == 16) {  // else the kernel asks for no map
    make_tensor_map(params.q, call.q, p.q, p.batch, p.head_dim,
                    {.rows = plan.cut.rows, .heads = plan.cut.heads});
    if (p.k.page_size == 0) {
      make_tensor_map(params.k, call.k, p.k, p.batch, p.head_dim, {.rows = plan.cut.keys});
      make_tensor_map(params.v, call.v, p.k, p.batch, p.head_dim_v, {.rows = plan.cut.keys});
    } else if (plan.page_rows > 0) {
      make_page_maps(params, plan, call);
    }
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
      case Over::shares: {
        const kernel::JoinParams shares{rows.partial, shares_of(plan_, workspace),
                                        rows.operands.out, rows.operands.lse, rows.score.sinks};
        launch(index, &shares, stream);
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
