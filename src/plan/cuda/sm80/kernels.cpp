#include "plan/cuda/sm80/kernels.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "plan/cuda/common.hpp"

namespace fa::sm80 {

ForwardKernel forward(const Problem& p, const ForwardTile& t) {
  KernelConfig config;
  add_problem(config, p)
      .number("value_columns", value_columns(t, p.head_dim_v))
      .number("warps", t.warps)
      .number("warp_rows", t.warp_rows)
      .number("keys", t.keys)
      .number("groups", t.groups)
      .number("stages", t.stages)
      .number("query_slices", t.query_slices)
      .flag("stale_maximum", t.stale_maximum)
      .format("sinks", p.score.sinks, p.score.sinks_dtype);
  return {
      .cut = {.rows = t.rows(),
              .keys = t.keys,
              .blocks_per_sm = t.min_blocks,
              .value_slices = t.value_slices},
      .config = config,
      .source = {"fa_sm80_forward",
                 {"sm80/forward.cuh"},
                 "fa::sm80::ForwardConfig",
                 "fa::sm80::Forward<Config>"},
      .threads = 32 * t.warps,
      .shared_bytes = shared_bytes(t, p.head_dim, p.head_dim_v),
      .text = fmt::format(
          "registers of a thread: {} for O, S, P and Q, of {}\n"
          "tile: {} rows ({} warps of {}), {} keys a step, {} steps in shared memory\n"
          "query in registers: {} of {} slices\nmaximum: {}\ngroups that take turns: {}\n",
          registers(t, p.head_dim_v), register_limit(t), t.rows(), t.warps, t.warp_rows, t.keys,
          t.stages, t.query_slices, (p.head_dim + 15) / 16, t.stale_maximum ? "stale" : "exact",
          t.groups),
  };
}

BackwardKernel backward(const Problem& p, const BackwardTile& t) {
  const int depth = padded_columns(t, p.head_dim), width = padded_columns(t, p.head_dim_v);
  KernelConfig config;
  add_problem(config, p)
      .number("warps", t.warps)
      .number("rows", t.rows)
      .number("keys", t.keys)
      .number("row_warps", t.row_warps)
      .number("sum_warps", t.sum_warps)
      .number("column_warps", t.column_warps)
      .number("stages", t.stages)
      .number("query_parts", t.query_parts)
      .number("depth", depth)
      .number("width", width)
      .number("key_slices", std::min(t.key_slices, depth / 16 / t.sum_warps))
      .number("value_slices", std::min(t.value_slices, width / 16 / t.sum_warps))
      .number("shared_bytes", shared_bytes(t, p.head_dim, p.head_dim_v))
      .flag("query_last", t.query_last || in_order(p));
  return {
      .cut = {.rows = t.rows,
              .keys = t.keys,
              .blocks_per_sm = t.min_blocks,
              .threads = 32 * t.warps,
              .columns = depth,
              .value_columns = width,
              .bias_sums = t.row_warps},
      .config = config,
      .main = {"fa_sm80_backward",
               {"sm80/backward.cuh"},
               "fa::sm80::BackwardConfig",
               "fa::sm80::Backward<Config>"},
      .threads = 32 * t.warps,
      .shared_bytes = shared_bytes(t, p.head_dim, p.head_dim_v),
      .shapes_file = "sm80/backward_shapes.cuh",
      .shapes = "fa::sm80::BackwardShapes<Config>",
      .text = fmt::format("tile: {} keys, {} rows a step, {} steps in shared memory, {} warps\n",
                          t.keys, t.rows, t.stages, t.warps),
  };
}

Offered<ForwardKernel> forward(const Problem& problem, const GpuLimits& gpu) {
  return {forward(problem, forward_tile(problem, gpu)), {}};
}

Offered<BackwardKernel> backward(const Problem& problem, const GpuLimits& gpu) {
  return {backward(problem, backward_tile(problem, gpu)), {}};
}

}  // namespace fa::sm80
