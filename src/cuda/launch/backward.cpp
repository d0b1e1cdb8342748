// The launch of a planned backward pass.
#include <algorithm>
#include <type_traits>

#include "cuda/runtime/driver.hpp"
#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"

namespace fa::cuda {

namespace {

kernel::Walk walk(const Rows& rows, const CudaBackwardPlan& plan) {
  const int64_t tile = 2 * rows.row * plan.tile.rows, head = 2 * rows.head;
  return {head - tile, -(plan.part_heads - 1) * head};
}

/// Of the kernels whose tiles are those of keys.
kernel::BackwardParams backward_params(const CudaBackwardPlan& plan, const Call& call,
                                       void* workspace) {
  const Problem& p = plan.problem;
  kernel::BackwardParams params{};
  params.forward = common_params(p, call, plan.key_tiles, 1);
  params.order_heads = kernel::Divisor(static_cast<int>(p.heads_k));
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
  params.gradient_scale = static_cast<float>(p.scale);
  params.padded_rows = plan.padded_rows;
  params.padded_keys = plan.padded_keys;
  params.bias_batches = p.bias_per_batch ? static_cast<int>(p.batch) : 1;
  params.bias_heads = p.bias_per_head ? static_cast<int>(p.heads_q) : 1;
  params.bias_rows = p.bias_per_row ? static_cast<int>(p.seqlen_q) : 1;
  const BackwardWorkspace& bytes = plan.workspace;
  auto* next = static_cast<char*>(workspace);
  const auto take = [&next](auto*& pointer, int64_t size) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
    next += size;
  };
  take(params.dq_sum, bytes.dq_sum);
  take(params.lse_2, bytes.lse);
  take(params.delta, bytes.delta);
  take(params.dk_sum, bytes.dk_sum);
  take(params.dv_sum, bytes.dv_sum);
  take(params.dbias_sum, bytes.dbias_sum);
  take(params.dq_turns, bytes.dq_turns);
  take(params.key_turns, bytes.key_turns);
  take(params.ranges, bytes.ranges);
  return params;
}

}  // namespace

void PlannedBackward::prepare() const {
  if (empty()) return;
  prepare_.get(plan_.prepare, device());
  backward_.get(plan_.backward, device());
  finish_.get(plan_.finish, device());
  if (plan_.values) values_.get(*plan_.values, device());
  if (plan_.finish_keys) finish_keys_.get(*plan_.finish_keys, device());
  if (plan_.bias) bias_.get(*plan_.bias, device());
  if (plan_.sinks) sinks_.get(*plan_.sinks, device());
}

void PlannedBackward::launch_all(const Call& call, void* workspace, void* stream) const {
  prepare();
  const Problem& p = plan_.problem;
  const kernel::BackwardParams keys = backward_params(plan_, call, workspace);
  kernel::BackwardParams rows = keys;
  rows.order_heads = rows.forward.heads_q;
  set_order(rows.forward, plan_.row_tiles, 1);
  const Grid key_grid{static_cast<unsigned>(plan_.key_blocks)};
  const Grid row_grid{static_cast<unsigned>(plan_.row_blocks)};
  const auto run = [&](const PlannedKernel& kernel, const KernelSpec& spec, Grid grid,
                       const kernel::BackwardParams& params) {
    if (grid.x > 0 && grid.y > 0) launch(kernel.get(spec, device()), spec, grid, &params, stream);
  };
  // All of it, also what no row has.
  if (const int64_t zeros = plan_.workspace.zeros(); zeros > 0) {
    check(driver().set_words(reinterpret_cast<CUdeviceptr>(keys.dk_sum), 0,
                             static_cast<size_t>(zeros / 4), static_cast<CUstream>(stream)),
          "setting memory");
  }
  const auto run_bias = [&] {
    constexpr int64_t most = 65535;  // of a grid's second extent
    const int64_t of_row =
        std::min(most, (p.seqlen_k + plan_.bias->threads - 1) / plan_.bias->threads);
    run(bias_, *plan_.bias, {static_cast<unsigned>(plan_.bias_rows), static_cast<unsigned>(of_row)},
        rows);
  };
  if (plan_.bias && plan_.bias_first) run_bias();
  if (plan_.values) run(values_, *plan_.values, key_grid, keys);
  run(prepare_, plan_.prepare, row_grid, rows);
  launch_main(keys, stream);
  run(finish_, plan_.finish, row_grid, rows);
  if (plan_.finish_keys) run(finish_keys_, *plan_.finish_keys, key_grid, keys);
  if (plan_.bias && !plan_.bias_first) run_bias();
  if (plan_.sinks) run(sinks_, *plan_.sinks, {static_cast<unsigned>(p.heads_q)}, rows);
}

void PlannedBackward::launch_main(kernel::BackwardParams params, void* stream) const {
  const Problem& p = plan_.problem;
  const int sequences = plan_.by_sequence ? params.forward.batch : 1;
  const int heads = plan_.by_head ? static_cast<int>(p.heads_k) : 1;
  params.order_heads = kernel::Divisor(heads > 1 ? 1 : params.order_heads.value * plan_.parts);
  set_order(params.forward, plan_.key_tiles, plan_.section);
  const int blocks = plan_.key_blocks / (sequences * heads) * plan_.parts;
  if (blocks == 0) return;
  for (params.first_sequence = 0; params.first_sequence < sequences; ++params.first_sequence) {
    for (params.first_head = 0; params.first_head < heads; ++params.first_head) {
      launch(backward_.get(plan_.backward, device()), plan_.backward,
             {static_cast<unsigned>(blocks)}, &params, stream);
    }
  }
}

}  // namespace fa::cuda
