// The launches of a planned backward pass.
#include <type_traits>

#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/launch/tensor_maps.hpp"
#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

namespace {

kernel::Walk walk(const Rows& rows, const CudaBackwardPlan& plan) {
  const int64_t tile = 2 * rows.row * plan.cut.rows, head = 2 * rows.head;
  return {head - tile, -(plan.part_heads - 1) * head};
}

/// All but the order: each launch has its own.
kernel::BackwardParams backward_params(const CudaBackwardPlan& plan, const Call& call,
                                       void* workspace) {
  const Problem& p = plan.problem;
  auto params = params_of<kernel::BackwardParams>(p, call);
  params.dout = view(call.dout);
  params.dlse = view(call.dlse);
  params.dq = view(call.dq);
  params.dk = view(call.dk);
  params.dv = view(call.dv);
  params.dsinks = view(call.dsinks);
  params.dbias = view(call.dbias);
  params.parts = kernel::Divisor(plan.parts);
  params.part_heads = plan.part_heads;
  params.q_walk = walk(call.q, plan);
  params.dout_walk = walk(call.dout, plan);
  params.gradient_scale = static_cast<float>(p.score.scale);
  params.padded_rows = plan.padded_rows;
  params.padded_keys = plan.padded_keys;
  params.bias_batches = p.score.bias_per_batch ? static_cast<int>(p.batch) : 1;
  params.bias_heads = p.score.bias_per_head ? static_cast<int>(p.q.heads) : 1;
  params.bias_rows = p.score.bias_per_row ? static_cast<int>(p.q.seqlen) : 1;
  const BackwardWorkspace& bytes = plan.workspace;
  auto* next = static_cast<char*>(workspace);
  const auto take = [&next](auto*& pointer, int64_t size) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
    next += size;
  };
  take(params.dq_sum, bytes.dq_sum);
  take(params.lse_2, bytes.lse);
  take(params.delta, bytes.delta);
  next += bytes.counter;
  take(params.dk_sum, bytes.dk_sum);
  take(params.dv_sum, bytes.dv_sum);
  take(params.dbias_sum, bytes.dbias_sum);
  take(params.key_turns, bytes.key_turns);
  take(params.ranges, bytes.ranges);
  take(params.dq_turns, bytes.dq_turns);
  params.dq_turns_count = bytes.dq_turns / 4;
  return params;
}

/// Of a main kernel whose blocks stay: all but the launch's own number.
kernel::TiledBackwardParams tiled_params(const CudaBackwardPlan& plan, const Call& call,
                                         const kernel::BackwardParams& keys) {
  const Problem& p = plan.problem;
  // The counter lies behind delta.
  char* counter = reinterpret_cast<char*>(keys.delta) + plan.workspace.delta;
  kernel::TiledBackwardParams params{.q = {},
                                     .k = {},
                                     .v = {},
                                     .dout = {},
                                     .k_panels = {},
                                     .backward = keys,
                                     .tiles = plan.tiles_of_launch,
                                     .counter = reinterpret_cast<kernel::TileCounter*>(counter),
                                     .launch = 0};
  if (p.alignment == 16) {  // else the kernel asks for no map
    make_tensor_map(params.q, call.q, p.q, p.batch, p.head_dim, {.rows = plan.cut.rows});
    const int keys = plan.cut.keys / plan.cut.cluster;
    make_tensor_map(params.k, call.k, p.k, p.batch, p.head_dim, {.rows = keys});
    make_tensor_map(params.v, call.v, p.k, p.batch, p.head_dim_v, {.rows = keys});
    if (plan.cut.cluster > 1) {
      make_tensor_map(params.k_panels, call.k, p.k, p.batch, p.head_dim,
                      {.rows = keys, .one_panel = true});
    }
    make_tensor_map(params.dout, call.dout, p.q, p.batch, p.head_dim_v,
                    {.rows = plan.cut.rows, .one_panel = plan.cut.dout_by_panels});
  }
  return params;
}

}  // namespace

void PlannedBackward::launch_all(const Call& call, void* workspace, void* stream) const {
  const Problem& p = plan_.problem;
  kernel::BackwardParams params = backward_params(plan_, call, workspace);
  // All of it, also what no row has.
  if (const int64_t zeros = plan_.workspace.zeros(); zeros > 0) {
    check(driver().set_words(reinterpret_cast<CUdeviceptr>(params.dk_sum), 0,
                             static_cast<size_t>(zeros / 4), static_cast<CUstream>(stream)),
          "setting memory");
  }
  for (size_t index = 0; index < plan_.launches.size(); ++index) {
    switch (plan_.launches[index].over) {
      case Over::keys:
        params.order = order(p, p.k.heads, plan_.key_tiles);
        launch(index, &params, stream);
        break;
      case Over::key_parts:
      case Over::key_tiles:
        launch_main(index, call, params, stream);
        break;
      case Over::rows:
        params.order = order(p, p.q.heads, plan_.row_tiles);
        launch(index, &params, stream);
        break;
      case Over::splits:
      case Over::shares:
      case Over::tiles:
        break;  // of a forward pass
    }
  }
}

/// The main kernel, for one sequence and head after the other where the plan wants it so.
void PlannedBackward::launch_main(size_t index, const Call& call, kernel::BackwardParams params,
                                  void* stream) const {
  const Launch& main = plan_.launches[index];
  if (main.grid.empty()) return;
  const int64_t heads = main.heads > 1 ? 1 : plan_.problem.k.heads * plan_.parts;
  params.order = order(plan_.problem, heads, plan_.key_tiles, plan_.section);
  const auto launch_each = [&main](kernel::Order& order, const auto& launch_one) {
    for (order.first_sequence = 0; order.first_sequence < main.sequences; ++order.first_sequence) {
      for (order.first_head = 0; order.first_head < main.heads; ++order.first_head) launch_one();
    }
  };
  if (main.over == Over::key_parts) {
    launch_each(params.order, [&] { launch(index, &params, stream); });
    return;
  }
  kernel::TiledBackwardParams tiles = tiled_params(plan_, call, params);
  launch_each(tiles.backward.order, [&] {
    tiles.launch = number_of_launch();
    launch(index, &tiles, stream);
  });
}

}  // namespace fa::cuda
