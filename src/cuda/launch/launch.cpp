#include "cuda/launch/launch.hpp"

#include <algorithm>
#include <numbers>

#include "cuda/runtime/driver.hpp"
#include "kernels/common/philox.h"
#include "problem/argument.hpp"

namespace fa::cuda {

namespace {

kernel::Lengths lengths(const int32_t* cu_seqlens, const int32_t* seqused, int64_t seqlen,
                        int64_t tokens) {
  return {cu_seqlens, seqused, static_cast<int>(seqlen), tokens};
}

}  // namespace

kernel::View view(const Rows& rows) { return {rows.data, rows.batch, rows.row, rows.head}; }

void set_order(kernel::ForwardParams& params, int tiles, int section) {
  tiles = std::max(tiles, 1);  // of a side without rows no block asks
  params.row_tiles = kernel::Divisor(tiles);
  params.section = kernel::Divisor(section);
  params.section_tiles = kernel::Divisor(section * tiles);
}

kernel::ForwardParams common_params(const Problem& p, const Call& call, int tiles, int section) {
  const double log2_e = std::numbers::log2e;
  kernel::ForwardParams params{};
  params.q = view(call.q);
  params.k = view(call.k);
  params.v = view(call.v);
  params.out = view(call.out);
  params.lse = view(call.lse);
  params.bias = view(call.bias);
  params.alibi = view(call.alibi);
  params.sinks = view(call.sinks);
  params.rows = lengths(call.cu_seqlens_q, call.seqused_q, p.q.seqlen, p.q.tokens);
  params.keys = lengths(call.cu_seqlens_k, call.seqused_k, p.k.seqlen, p.k.tokens);
  params.batch = static_cast<int>(p.batch);
  params.heads_q = kernel::Divisor(static_cast<int>(p.q.heads));
  params.group = kernel::Divisor(static_cast<int>(p.group()));
  set_order(params, tiles, section);
  params.scale = static_cast<float>(p.score.softcap > 0 ? p.score.scale / p.score.softcap
                                                        : p.score.scale * log2_e);
  params.softcap = static_cast<float>(p.score.softcap * log2_e);
  params.keep_scale = static_cast<float>(1 / (1 - p.dropout_p));
  params.threshold = philox::threshold(p.dropout_p);
  params.window_left = p.score.window_left;
  params.window_right = p.score.window_right;
  params.seed = call.dropout_seed;
  params.offset = call.dropout_offset;
  params.dropout_state = reinterpret_cast<const long long*>(call.dropout_state);
  return params;
}

void launch(const LoadedKernel& kernel, const KernelSpec& spec, Grid grid, const void* params,
            void* stream) {
  void* arguments[] = {const_cast<void*>(params)};
  check(
      driver().launch(kernel.function, grid.x, grid.y, grid.z, static_cast<unsigned>(spec.threads),
                      1, 1, static_cast<unsigned>(spec.shared_bytes), static_cast<CUstream>(stream),
                      arguments, nullptr),
      spec.entry.c_str());
}

}  // namespace fa::cuda
