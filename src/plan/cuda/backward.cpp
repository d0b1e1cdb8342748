#include "plan/cuda/backward.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/common/params.h"
#include "plan/cuda/common.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "plan/cuda/sm80/kernels.hpp"
#include "plan/cuda/sm90/kernels.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

// Blocks of the main kernel for each that the device runs at a time: with fewer, one that begins
// late ends late (Llama 3.1 405B at 8k has 3.9, and took 1.4 times as long as with 15.5).
constexpr int64_t least_waves = 12;

BackwardKernel kernel_of(const Problem& p, const FamilyBackwardTile& tile) {
  const auto* sm90_tile = std::get_if<sm90::BackwardTile>(&tile);
  return sm90_tile != nullptr ? sm90::backward(p, *sm90_tile)
                              : sm80::backward(p, std::get<BackwardTile>(tile));
}

bool sequences_share_bias(const Problem& p) { return !p.score.bias_per_batch && p.batch > 1; }
bool heads_share_bias(const Problem& p) { return !p.score.bias_per_head && p.q.heads > 1; }
bool rows_share_bias(const Problem& p) { return !p.score.bias_per_row && p.q.seqlen > 1; }
/// Whether blocks add to the same numbers of the bias's gradient; those that share keys over all
/// rows have sums of their own.
bool blocks_share_bias(const Problem& p) {
  // mutant "CUDA plan: shared bias" of cuda_backward_plan_test: heads_share_bias(p) => false
  return p.wants.dbias && !rows_share_bias(p) && (sequences_share_bias(p) || heads_share_bias(p));
}

int64_t padded(bool packed, int64_t seqlen, int64_t tokens, int64_t batch, int64_t tile) {
  return packed ? round_up(tokens, tile) + (batch + 1) * tile : batch * round_up(seqlen, tile);
}

void cut(CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  const BackwardKernel::Cut& t = plan.cut;
  const int64_t key_tiles = tiles_of_head(p.k.packed, p.k.seqlen, p.k.tokens, p.batch, t.keys);
  const int64_t row_tiles = tiles_of_head(p.q.packed, p.q.seqlen, p.q.tokens, p.batch, t.rows);
  plan.key_blocks = checked_blocks("k", key_tiles * p.k.heads * (p.k.packed ? 1 : p.batch), t.keys);
  plan.row_blocks = checked_blocks("q", row_tiles * p.q.heads * (p.q.packed ? 1 : p.batch), t.rows);
  plan.key_tiles = static_cast<int>(key_tiles);
  plan.row_tiles = static_cast<int>(row_tiles);
  plan.padded_rows = padded(p.q.packed, p.q.seqlen, p.q.tokens, p.batch, t.rows);
  plan.padded_keys = padded(p.k.packed, p.k.seqlen, p.k.tokens, p.batch, t.keys);
  plan.by_sequence = in_order(p) && blocks_share_bias(p) && sequences_share_bias(p);
  plan.by_head = in_order(p) && blocks_share_bias(p) && heads_share_bias(p);
}

/// Q, dO and dQ's sum of a query head, which blocks that begin at other times read again.
int64_t row_bytes(const Problem& p) {
  return p.q.seqlen * (2 * (p.head_dim + p.head_dim_v) + 4 * p.head_dim);
}

/// Shares the heads of a group out to blocks, for enough of these and for heads that fit the L2.
/// Their number depends on the batch, so a problem that wants its bits not to is never shared out.
int choose_parts(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  if (p.run.batch_invariant || plan.by_head || plan.key_blocks == 0) return 1;
  // In order a block with two heads made its successors wait (Qwen2.5 72B at 8k: 1.30 to 1.09).
  if (p.run.deterministic) return static_cast<int>(p.group());
  const int64_t slots = int64_t{plan.gpu.sm_count} * plan.cut.blocks_per_sm;
  const int64_t for_blocks = ceil_div(least_waves * slots, plan.key_blocks);
  const int64_t for_memory = ceil_div(p.group() * row_bytes(p), section_bytes);
  return static_cast<int>(std::clamp<int64_t>(std::max(for_blocks, for_memory), 1, p.group()));
}

int choose_section(const CudaBackwardPlan& plan) {
  const Problem& p = plan.problem;
  // In order, blocks of one head that begin together wait for each other.
  const bool alternate = p.score.window_right >= 0 || in_order(p);
  if (!alternate || p.k.packed || plan.by_sequence || plan.by_head) return 1;
  return static_cast<int>(
      groups_in_section(p.batch * p.k.heads * plan.parts, plan.part_heads * row_bytes(p)));
}

void share_keys(CudaBackwardPlan& plan, int parts) {
  const Problem& p = plan.problem;
  while (p.group() % parts != 0) ++parts;  // as many heads in each
  plan.parts = parts;
  plan.part_heads = static_cast<int>(p.group() / parts);
  checked_blocks("k", int64_t{plan.key_blocks} * plan.parts, plan.cut.keys);
}

void size_workspace(CudaBackwardPlan& plan, Over over) {
  const Problem& p = plan.problem;
  const BackwardKernel::Cut& t = plan.cut;
  BackwardWorkspace& bytes = plan.workspace;
  bytes.lse = bytes.delta = p.q.heads * plan.padded_rows * 4;
  bytes.dq_sum = bytes.lse * t.columns;
  if (over == Over::key_tiles) bytes.counter = sizeof(kernel::TileCounter);
  if (in_order(p) || t.first_stores || t.clears_sums) {
    bytes.dq_turns = bytes.lse / t.rows * t.dq_turns;
  }
  if (plan.parts > 1) {
    const int64_t keys = p.k.heads * plan.padded_keys * 4;
    bytes.dk_sum = keys * t.columns;
    bytes.dv_sum = keys * t.value_columns;
    bytes.key_turns = keys / t.keys;
  }
  if (p.wants.dbias && rows_share_bias(p)) {
    bytes.dbias_sum = t.bias_sums * p.batch * p.q.heads * p.k.seqlen * 4;
  } else if (blocks_share_bias(p)) {
    bytes.dbias_sum = plan.bias_rows * p.k.seqlen * 4;
  }
  if (p.dtype == float16) bytes.ranges = 4 * p.batch * (2 * p.q.heads + p.k.heads);
  plan.workspace_bytes = static_cast<size_t>(bytes.all());
}

/// Adds the plan's own constants, which all kernels of the pass have, to those of a family.
KernelConfig with_sums(KernelConfig config, const Problem& p) {
  return config.flag("deterministic", in_order(p))
      .format("dbias", p.wants.dbias, p.wants.dbias_dtype)
      .flag("bias_per_row", p.wants.dbias && !rows_share_bias(p))
      .flag("bias_shared", blocks_share_bias(p))
      .format("sinks", p.wants.dsinks, p.score.sinks_dtype)
      .format("dsinks", p.wants.dsinks, p.wants.dsinks_dtype);
}

/// Makes the launches of a plan whose cuts are decided.
class Launches {
 public:
  Launches(CudaBackwardPlan& plan, const BackwardKernel& family)
      : plan_(plan), family_(family), config_(with_sums(family.config, plan.problem)) {}

  void add_all() {
    const Problem& p = plan_.problem;
    const BackwardKernel::Cut& t = plan_.cut;
    const Grid rows{static_cast<unsigned>(plan_.row_blocks)};
    const Grid keys{static_cast<unsigned>(plan_.key_blocks)};
    const bool bias_first = !rows_share_bias(p) && !blocks_share_bias(p);
    if (p.wants.dbias && bias_first) add_bias();
    if (p.dtype == float16) {
      add("fa_backward_values", "pass/ranges.cuh", "MeasureValues", Over::keys, keys);
    }
    add("fa_backward_prepare", "pass/prepare.cuh", "Prepare", Over::rows, rows);
    add_main();
    add("fa_backward_finish", "pass/finish.cuh", "FinishRows", Over::rows, rows,
        2 * t.rows * t.columns);
    if (plan_.parts > 1) {
      add("fa_backward_finish_keys", "pass/finish.cuh", "FinishKeys", Over::keys, keys,
          2 * t.keys * (t.columns + t.value_columns));
    }
    if (p.wants.dbias && !bias_first) add_bias();
    if (p.wants.dsinks) {
      add("fa_backward_sinks", "pass/sinks.cuh", "SinkGradients", Over::rows,
          {static_cast<unsigned>(p.q.heads)}, 4 * t.threads);
    }
  }

 private:
  /// One of the kernels before and after the main one, which are any family's.
  void add(std::string_view entry, std::string_view file, std::string_view type, Over over,
           Grid grid, int shared_bytes = 0) {
    const std::string kernel = fmt::format("fa::pass::{}<{}>", type, family_.shapes);
    plan_.launches.push_back(
        {.kernel = kernel_spec({entry, {family_.shapes_file, file}, family_.main.defaults, kernel},
                               config_, plan_.cut.threads, 0, shared_bytes),
         .over = over,
         .grid = grid});
  }

  /// A row of the bias is a row of blocks.
  void add_bias() {
    constexpr int64_t most = 65535;  // of a grid's second extent
    const int64_t of_row = std::min(most, ceil_div(plan_.problem.k.seqlen, plan_.cut.threads));
    add("fa_backward_bias", "pass/bias.cuh", "FinishBias", Over::rows,
        {static_cast<unsigned>(plan_.bias_rows), static_cast<unsigned>(of_row)});
  }

  void add_main() {
    const Problem& p = plan_.problem;
    const BackwardKernel::Cut& t = plan_.cut;
    KernelConfig config = config_;
    // Every row sees all keys of every block: then the kernel need not look.
    // mutant "CUDA plan: all keys are seen" of cuda_backward_plan_test: p.score.window_right => -1
    config.flag("all_seen", p.score.window_left < 0 && p.score.window_right < 0 && !p.k.packed &&
                                !p.k.used && p.k.seqlen % t.keys == 0);
    const int sequences = plan_.by_sequence ? static_cast<int>(p.batch) : 1;
    const int heads = plan_.by_head ? static_cast<int>(p.k.heads) : 1;
    const int64_t launches = std::max<int64_t>(int64_t{sequences} * heads, 1);
    plan_.tiles_of_launch = static_cast<int>(plan_.key_blocks / launches * plan_.parts);
    auto tiles = static_cast<unsigned>(plan_.tiles_of_launch);
    if (family_.over == Over::key_tiles) {  // at a time
      const int most = plan_.gpu.sm_count * t.blocks_per_sm / t.cluster;
      tiles = std::min(tiles, static_cast<unsigned>(most));
    }
    plan_.launches.push_back({.kernel = kernel_spec(family_.main, config, family_.threads,
                                                    t.blocks_per_sm, family_.shared_bytes),
                              .over = family_.over,
                              .grid = {tiles * t.cluster},
                              .sequences = sequences,
                              .heads = heads});
  }

  CudaBackwardPlan& plan_;
  const BackwardKernel& family_;
  KernelConfig config_;
};

}  // namespace

const KernelSpec& CudaBackwardPlan::main() const {
  return std::ranges::find_if(launches,
                              [](const Launch& launch) {
                                return launch.over == Over::key_parts ||
                                       launch.over == Over::key_tiles;
                              })
      ->kernel;
}

CudaBackwardPlan plan_cuda_backward(const Problem& p, const GpuLimits& gpu,
                                    const BackwardTuning& tuning) {
  need_offered(p);
  const BackwardKernel family = tuning.tile ? kernel_of(p, *tuning.tile) : backward_kernel(p, gpu);
  CudaBackwardPlan plan;
  plan.problem = p;
  plan.problem.score.bias_aligned = false;  // no kernel of this pass needs it
  plan.gpu = gpu;
  plan.cut = family.cut;
  plan.tile_text = family.text;
  cut(plan);
  // The kernel for clusters stores dK and dV, and cannot add them to those of other heads.
  const bool shares = plan.cut.cluster == 1;
  share_keys(plan, !shares ? 1 : tuning.parts ? *tuning.parts : choose_parts(plan));
  plan.section = choose_section(plan);
  if (p.wants.dbias) {
    const int64_t rows = (p.score.bias_per_batch ? p.batch : 1) *
                         (p.score.bias_per_head ? p.q.heads : 1) *
                         (p.score.bias_per_row ? p.q.seqlen : 1);
    plan.bias_rows = checked_blocks("bias", rows, 1);
  }
  size_workspace(plan, family.over);
  Launches(plan, family).add_all();
  return plan;
}

std::string to_text(const CudaBackwardPlan& plan) {
  const KernelSpec& main = plan.main();
  const BackwardWorkspace& bytes = plan.workspace;
  const bool stays = bytes.counter > 0;  // blocks take these tiles one after the other
  return heading(plan.problem, plan.gpu) +
         fmt::format(
             "kernel: {} ({} threads, {} bytes of shared memory, {} blocks of a multiprocessor)\n"
             "{}grid: {} {} for keys, each with {} query heads, sections of {}; {} blocks "
             "for rows before and after\n"
             "workspace: {} bytes ({} for dq in float32, {} each for lse and delta, {} for dk "
             "and dv, {} for dbias, {} to keep the order, {} for ranges)\n",
             main.entry, main.threads, main.shared_bytes, plan.cut.blocks_per_sm, plan.tile_text,
             plan.key_blocks * plan.parts, stays ? "tiles" : "blocks", plan.part_heads,
             plan.section, plan.row_blocks, bytes.all(), bytes.dq_sum, bytes.lse,
             bytes.dk_sum + bytes.dv_sum, bytes.dbias_sum,
             bytes.dq_turns + bytes.key_turns + bytes.counter, bytes.ranges);
}

}  // namespace fa
