// Kernel families: each offers a main kernel for a problem, or none. The first that serves is
// taken; only the last, sm80, may throw where no tile fits the GPU.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "plan/cuda/gpu.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "plan/cuda/kernel_spec.hpp"
#include "plan/cuda/launch.hpp"
#include "problem/problem.hpp"

namespace fa {

struct ForwardKernel {
  /// How it cuts a problem: sections and splits depend on nothing else.
  struct Cut {
    int rows = 0;           ///< query rows of a block, of each of its heads
    int heads = 1;          ///< query heads of a block, which share their keys
    int keys = 0;           ///< of a step; splits end between steps
    int blocks_per_sm = 0;  ///< that a multiprocessor has room for
    int value_slices = 1;   ///< blocks that share V's columns out
    friend bool operator==(const Cut&, const Cut&) = default;
  };
  Cut cut;
  KernelConfig config;  ///< the plan adds `split`, or `shares`
  KernelSource source;
  Over over = Over::rows;   ///< tiles: blocks that stay take tile after tile
  bool shares = false;      ///< which have equal shares of all steps, unless the keys are split
  bool claims = false;      ///< which a counter in the workspace hands out
  bool copies_out = false;  ///< it stores O by the copy engine, unless the keys are split
  int page_rows = 0;        ///< rows of a page that a copy brings; 0 where none does
  int bias_box_rows = 0;    ///< rows of the bias that a copy brings; 0 where none does
  int threads = 0;          ///< of a block
  int shared_bytes = 0;     ///< of a block
  std::string text;         ///< its tile in words, whole lines
};

struct BackwardKernel {
  struct Cut {
    int rows = 0;                 ///< query rows of a step
    int keys = 0;                 ///< of a block, or of a cluster of blocks
    int cluster = 1;              ///< blocks that share these keys
    bool dout_by_panels = false;  ///< dO is copied panel by panel
    int blocks_per_sm = 0;        ///< that a multiprocessor has room for
    int threads = 0;              ///< of a block of the kernels before and after the main one
    int columns = 0;              ///< of dQ's and dK's sums: head_dim, padded
    int value_columns = 0;        ///< of dV's
    int bias_sums = 1;            ///< warps that sum the same rows of a bias, each for itself
    int dq_turns = 1;             ///< counters of a tile of rows, where dQ's sums need them
    bool first_stores = false;    ///< who adds to dQ first stores, by such a counter
    bool clears_sums = false;     ///< the main kernel sets dQ's sums to 0, by such counters
    friend bool operator==(const Cut&, const Cut&) = default;
  };
  Cut cut;
  KernelConfig config;           ///< of all kernels of the pass; the plan adds what it decides
  KernelSource main;             ///< what runs over the keys
  Over over = Over::key_parts;   ///< key_tiles: blocks that stay take tile after tile
  int threads = 0;               ///< of a block of it
  int shared_bytes = 0;          ///< of a block of it
  std::string_view shapes_file;  ///< for the kernels of src/kernels/pass, which are templates of it
  std::string_view shapes;
  std::string text;  ///< its tile in words, a whole line
};

/// What a family says to a problem: its kernel, or why it has none.
template <typename Kernel>
struct Offered {
  std::optional<Kernel> kernel;
  std::string refusal;  ///< "its rows are aligned to 16 bytes, these are to 8"
};

/// The kernel of the first family that serves the problem, or of the one that it names. Throws
/// Error (unsupported).
ForwardKernel forward_kernel(const Problem& problem, const GpuLimits& gpu);
BackwardKernel backward_kernel(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa
