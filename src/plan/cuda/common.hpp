// What the plans of both passes on a CUDA device have in common.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/common/padding.h"
#include "plan/cuda/gpu.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "plan/rounding.hpp"
#include "problem/problem.hpp"

namespace fa {

using kernel::pad16;

/// Whether sums have an order of their own: a sequence's bits depend on it, too.
inline bool in_order(const Problem& p) { return p.run.deterministic || p.run.batch_invariant; }

/// Throws Error (unsupported) for what CUDA devices are not offered in either pass.
void need_offered(const Problem& problem);

/// Tiles of `size` rows, or keys, of one head; all packed sequences together.
int64_t tiles_of_head(bool packed, int64_t seqlen, int64_t tokens, int64_t batch, int64_t size);
/// The blocks of a grid, one for each tile of `size` rows or keys (`name`). Throws Error
/// (unsupported) where a grid cannot have so many.
int checked_blocks(const char* name, int64_t blocks, int64_t size);

/// Bytes of K and V (forward), or of what a block of the backward pass reads again and again, that
/// the heads of a section may have together: half of the smallest L2 among data-centre GPUs.
inline constexpr int64_t section_bytes = 20 << 20;
/// How many of the `groups` of heads make a section. bytes: what the blocks of a group read again
/// and again. most: no section has more groups, where the bytes allow more.
int64_t groups_in_section(int64_t groups, int64_t bytes, int64_t most = INT64_MAX);

/// The constants that both passes' kernels are compiled with: formats, sizes, options.
KernelConfig& add_problem(KernelConfig& config, const Problem& problem);
/// How a plan's text begins: the pass, the device, the problem.
std::string heading(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa
