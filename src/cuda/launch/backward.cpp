// The launches of a planned backward pass.
#include <type_traits>

#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

namespace {

kernel::Walk walk(const Rows& rows, const CudaBackwardPlan& plan) {
  const int64_t tile = 2 * rows.row * plan.cut.rows, head = 2 * rows.head;
  return {head - tile, -(plan.part_heads - 1) * head};
}

/// Of the kernels whose tiles are those of keys.
kernel::BackwardParams backward_params(const CudaBackwardPlan& plan, const Call& call,
                                       void* workspace) {
  const Problem& p = plan.problem;
  kernel::BackwardParams params{};
  params.forward = common_params(p, call, plan.key_tiles, 1);
  params.order_heads = kernel::Divisor(static_cast<int>(p.k.heads));
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
  take(params.dk_sum, bytes.dk_sum);
  take(params.dv_sum, bytes.dv_sum);
  take(params.dbias_sum, bytes.dbias_sum);
  take(params.dq_turns, bytes.dq_turns);
  take(params.key_turns, bytes.key_turns);
  take(params.ranges, bytes.ranges);
  return params;
}

}  // namespace

void PlannedBackward::launch_all(const Call& call, void* workspace, void* stream) const {
  const kernel::BackwardParams keys = backward_params(plan_, call, workspace);
  kernel::BackwardParams rows = keys;
  rows.order_heads = rows.forward.heads_q;
  set_order(rows.forward, plan_.row_tiles, 1);
  // All of it, also what no row has.
  if (const int64_t zeros = plan_.workspace.zeros(); zeros > 0) {
    check(driver().set_words(reinterpret_cast<CUdeviceptr>(keys.dk_sum), 0,
                             static_cast<size_t>(zeros / 4), static_cast<CUstream>(stream)),
          "setting memory");
  }
  for (size_t index = 0; index < plan_.launches.size(); ++index) {
    switch (plan_.launches[index].over) {
      case Over::keys:
        launch(index, &keys, stream);
        break;
      case Over::key_parts:
        launch_parts(index, keys, stream);
        break;
      case Over::rows:
        launch(index, &rows, stream);
        break;
      case Over::splits:
        break;  // of a forward pass
    }
  }
}

/// The main kernel, for one sequence and head after the other where the plan wants it so.
void PlannedBackward::launch_parts(size_t index, kernel::BackwardParams params,
                                   void* stream) const {
  const Launch& main = plan_.launches[index];
  if (main.grid.empty()) return;
  params.order_heads = kernel::Divisor(main.heads > 1 ? 1 : params.order_heads.value * plan_.parts);
  set_order(params.forward, plan_.key_tiles, plan_.section);
  for (params.first_sequence = 0; params.first_sequence < main.sequences; ++params.first_sequence) {
    for (params.first_head = 0; params.first_head < main.heads; ++params.first_head) {
      launch(index, &params, stream);
    }
  }
}

}  // namespace fa::cuda
