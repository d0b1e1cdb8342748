#include "cuda/launch/launch.hpp"

#include <algorithm>
#include <atomic>
#include <numbers>
#include <random>

#include "cuda/runtime/driver.hpp"
#include "kernels/common/philox.h"
#include "problem/argument.hpp"

namespace fa::cuda {

kernel::View view(const Rows& rows) { return {rows.data, rows.batch, rows.row, rows.head}; }

kernel::Operands operands(const Call& call) {
  return {view(call.q), view(call.k), view(call.v), view(call.out), view(call.lse)};
}

kernel::Lengths lengths(const Side& side, const int32_t* cu_seqlens, const int32_t* seqused) {
  return {cu_seqlens, seqused, static_cast<int>(side.seqlen), side.tokens};
}

kernel::Heads heads(const Problem& p) {
  return {kernel::Divisor(static_cast<int>(p.group())), static_cast<int>(p.q.heads)};
}

kernel::ScoreArgs score_args(const Problem& p, const Call& call) {
  const double log2_e = std::numbers::log2e;
  return {view(call.bias), view(call.alibi), view(call.sinks),
          static_cast<float>(p.score.softcap > 0 ? p.score.scale / p.score.softcap
                                                 : p.score.scale * log2_e),
          static_cast<float>(p.score.softcap * log2_e)};
}

kernel::Window window(const Problem& p) { return {p.score.window_left, p.score.window_right}; }

kernel::DropoutArgs dropout_args(const Problem& p, const Call& call) {
  return {static_cast<float>(1 / (1 - p.dropout_p)), philox::threshold(p.dropout_p),
          call.dropout_seed, call.dropout_offset,
          reinterpret_cast<const long long*>(call.dropout_state)};
}

kernel::Order order(const Problem& p, int64_t heads, int tiles, int section) {
  tiles = std::max(tiles, 1);  // no block asks for a tile of a side without rows
  return {.batch = static_cast<int>(p.batch),
          .heads = kernel::Divisor(static_cast<int>(heads)),
          .first_sequence = 0,
          .tiles = kernel::Divisor(tiles),
          .section = kernel::Divisor(section),
          .section_tiles = kernel::Divisor(section * tiles),
          .first_head = 0};
}

unsigned long long number_of_launch() {
  static std::atomic<unsigned long long> last = [] {
    std::random_device random;
    return static_cast<unsigned long long>(random()) << 32 | random();
  }();
  return ++last;
}

namespace {

/// Graphs capture dependent launches since driver 12.3; without them such kernels begin as others.
bool has_dependent_launches() {
  static const bool has = [] {
    int version = 0;
    return driver().driver_version(&version) == success && version >= 12030;
  }();
  return has;
}

}  // namespace

void launch(const LoadedKernel& kernel, const KernelSpec& spec, Grid grid, const void* params,
            void* stream, bool dependent) {
  void* arguments[] = {const_cast<void*>(params)};
  if (dependent && has_dependent_launches()) {
    CUlaunchAttribute early{.id = launch_attribute::programmatic_serialization, .value = {1}};
    const CUlaunchConfig config{.grid = {grid.x, grid.y, grid.z},
                                .block = {static_cast<unsigned>(spec.threads), 1, 1},
                                .shared_bytes = static_cast<unsigned>(spec.shared_bytes),
                                .stream = static_cast<CUstream>(stream),
                                .attributes = &early,
                                .count = 1};
    check(driver().launch_with(&config, kernel.function, arguments, nullptr), spec.entry.c_str());
    return;
  }
  check(
      driver().launch(kernel.function, grid.x, grid.y, grid.z, static_cast<unsigned>(spec.threads),
                      1, 1, static_cast<unsigned>(spec.shared_bytes), static_cast<CUstream>(stream),
                      arguments, nullptr),
      spec.entry.c_str());
}

}  // namespace fa::cuda
