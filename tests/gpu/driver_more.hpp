// What the tests use of NVIDIA's driver and the library does not: captures, graphs, free memory.
#pragma once

#include <cstddef>

#include "cuda/runtime/driver_api.hpp"

namespace fa::test {

using cuda::CUresult;
using cuda::CUstream;
using CUgraph = struct CUgr*;
using CUgraphExec = struct CUgrExec*;

inline constexpr int capture_mode_global = 0;  // the strictest

// Member of `DriverMore`, symbol of libcuda.so.1, parameters, as in cuda/runtime/driver_api.hpp.
// clang-format off
#define FA_CUDA_TEST_FUNCTIONS(X)                                                                 \
  X(capture_begin, cuStreamBeginCapture_v2, (CUstream stream, int mode))                          \
  X(capture_end, cuStreamEndCapture, (CUstream stream, CUgraph* graph))                           \
  X(graph_instantiate, cuGraphInstantiateWithFlags, (CUgraphExec* executable, CUgraph graph,      \
      unsigned long long flags))                                                                  \
  X(graph_launch, cuGraphLaunch, (CUgraphExec executable, CUstream stream))                       \
  X(graph_executable_destroy, cuGraphExecDestroy, (CUgraphExec executable))                       \
  X(graph_destroy, cuGraphDestroy, (CUgraph graph))                                               \
  X(memory_info, cuMemGetInfo_v2, (size_t* free, size_t* total))
// clang-format on

struct DriverMore {
#define FA_CUDA_TEST_MEMBER(member, symbol, parameters) CUresult(*member) parameters = nullptr;
  FA_CUDA_TEST_FUNCTIONS(FA_CUDA_TEST_MEMBER)
#undef FA_CUDA_TEST_MEMBER
};

/// Throws where there is no driver, or one without these.
const DriverMore& driver_more();

/// Bytes of the device that nobody has taken.
size_t free_memory();

}  // namespace fa::test
