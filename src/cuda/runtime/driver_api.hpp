// The part of NVIDIA's driver API that is used, declared here: no toolkit is needed to build. A
// test compares all of it with the real cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fa::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx*;
using CUstream = struct CUstr*;
using CUevent = struct CUev*;
using CUfunction = struct CUfunc*;
using CUkernel = struct CUkern*;
using CUlibrary = struct CUlib*;
using CUmemoryPool = struct CUmemPool*;

inline constexpr CUresult success = 0;
inline constexpr CUresult error_out_of_memory = 2;

namespace device_attribute {
inline constexpr int sm_count = 16;
inline constexpr int l2_bytes = 38;
inline constexpr int threads_per_sm = 39;
inline constexpr int major = 75;
inline constexpr int minor = 76;
inline constexpr int shared_per_sm = 81;
inline constexpr int registers_per_sm = 82;
inline constexpr int shared_per_block = 97;  // the most that a kernel may opt in to
inline constexpr int blocks_per_sm = 106;
inline constexpr int memory_pools = 115;
}  // namespace device_attribute

namespace function_attribute {
inline constexpr int local_bytes = 3;
inline constexpr int registers = 4;
inline constexpr int max_dynamic_shared = 8;
}  // namespace function_attribute

namespace tensor_map_type {
inline constexpr int float16 = 6;
inline constexpr int bfloat16 = 9;
}  // namespace tensor_map_type
inline constexpr int tensor_map_promotion_256 = 3;  // L2 fetches 256 bytes at a time

inline constexpr int capture_mode_relaxed = 2;
inline constexpr int pool_release_threshold = 4;

/// Streams that are no objects: null is legacy's default as well.
inline constexpr uintptr_t stream_legacy = 1;
inline constexpr uintptr_t stream_per_thread = 2;

namespace launch_attribute {
inline constexpr int programmatic_serialization = 6;
}  // namespace launch_attribute

struct CUlaunchAttribute {
  int id = 0;
  char padding[4] = {};
  int value[16] = {};  ///< a union in cuda.h, of 64 bytes
};

struct CUlaunchConfig {
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  CUstream stream = nullptr;
  CUlaunchAttribute* attributes = nullptr;
  unsigned count = 0;
};

struct CUmemPoolProps {
  int allocation_type = 1;  // pinned, the only one
  int handle_types = 0;     // not shared with other processes
  int location_type = 1;    // a device
  int location_id = 0;
  void* win32_security = nullptr;
  size_t max_size = 0;
  unsigned short usage = 0;
  unsigned char reserved[54] = {};
};

// Every function: member of `Driver`, symbol of libcuda.so.1 (the versions that driver 12.0 has),
// parameters. All return CUresult.
// clang-format off
#define FA_CUDA_FUNCTIONS(X)                                                                      \
  X(init, cuInit, (unsigned flags))                                                               \
  X(driver_version, cuDriverGetVersion, (int* version))                                           \
  X(error_name, cuGetErrorName, (CUresult error, const char** name))                              \
  X(error_string, cuGetErrorString, (CUresult error, const char** text))                          \
  X(device_count, cuDeviceGetCount, (int* count))                                                 \
  X(device_get, cuDeviceGet, (CUdevice* device, int ordinal))                                     \
  X(device_name, cuDeviceGetName, (char* name, int length, CUdevice device))                      \
  X(device_attribute, cuDeviceGetAttribute, (int* value, int attribute, CUdevice device))         \
  X(primary_context_retain, cuDevicePrimaryCtxRetain, (CUcontext* context, CUdevice device))      \
  X(context_current, cuCtxGetCurrent, (CUcontext* context))                                       \
  X(context_set, cuCtxSetCurrent, (CUcontext context))                                            \
  X(context_push, cuCtxPushCurrent_v2, (CUcontext context))                                       \
  X(context_pop, cuCtxPopCurrent_v2, (CUcontext* context))                                        \
  X(context_device, cuCtxGetDevice, (CUdevice* device))                                           \
  X(context_synchronize, cuCtxSynchronize, ())                                                    \
  X(stream_create, cuStreamCreate, (CUstream* stream, unsigned flags))                            \
  X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                        \
  X(stream_context, cuStreamGetCtx, (CUstream stream, CUcontext* context))                        \
  X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                   \
  X(stream_is_capturing, cuStreamIsCapturing, (CUstream stream, int* status))                     \
  X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (int* mode))                        \
  X(library_load, cuLibraryLoadData, (CUlibrary* library, const void* code, int* jit_options,     \
      void** jit_values, unsigned jit_count, int* options, void** values, unsigned count))        \
  X(library_unload, cuLibraryUnload, (CUlibrary library))                                         \
  X(library_kernel, cuLibraryGetKernel, (CUkernel* kernel, CUlibrary library, const char* name))  \
  X(kernel_function, cuKernelGetFunction, (CUfunction* function, CUkernel kernel))                \
  X(kernel_attribute, cuKernelGetAttribute, (int* value, int attribute, CUkernel kernel,          \
      CUdevice device))                                                                           \
  X(kernel_set_attribute, cuKernelSetAttribute, (int attribute, int value, CUkernel kernel,       \
      CUdevice device))                                                                           \
  X(launch, cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y,               \
      unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,                      \
      unsigned shared_bytes, CUstream stream, void** parameters, void** extra))                   \
  X(launch_with, cuLaunchKernelEx, (const CUlaunchConfig* config, CUfunction function,             \
      void** parameters, void** extra))                                                           \
  X(alloc, cuMemAlloc_v2, (CUdeviceptr* pointer, size_t bytes))                                   \
  X(free, cuMemFree_v2, (CUdeviceptr pointer))                                                    \
  X(copy_to_device, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void* from, size_t bytes,        \
      CUstream stream))                                                                           \
  X(copy_to_host, cuMemcpyDtoHAsync_v2, (void* to, CUdeviceptr from, size_t bytes,                \
      CUstream stream))                                                                           \
  X(set_bytes, cuMemsetD8Async, (CUdeviceptr pointer, unsigned char value, size_t count,          \
      CUstream stream))                                                                           \
  X(set_words, cuMemsetD32Async, (CUdeviceptr pointer, unsigned value, size_t count,              \
      CUstream stream))                                                                           \
  X(pool_create, cuMemPoolCreate, (CUmemoryPool* pool, const CUmemPoolProps* properties))         \
  X(pool_set_attribute, cuMemPoolSetAttribute, (CUmemoryPool pool, int attribute, void* value))   \
  X(pool_trim, cuMemPoolTrimTo, (CUmemoryPool pool, size_t bytes_kept))                           \
  X(pool_alloc, cuMemAllocFromPoolAsync, (CUdeviceptr* pointer, size_t bytes, CUmemoryPool pool,  \
      CUstream stream))                                                                           \
  X(free_async, cuMemFreeAsync, (CUdeviceptr pointer, CUstream stream))                           \
  X(encode_tiled, cuTensorMapEncodeTiled, (void* map, int type, unsigned rank, void* address,     \
      const uint64_t* sizes, const uint64_t* strides, const uint32_t* box, const uint32_t* steps, \
      int interleave, int swizzle, int promotion, int fill))                                      \
  X(event_create, cuEventCreate, (CUevent* event, unsigned flags))                                \
  X(event_destroy, cuEventDestroy_v2, (CUevent event))                                            \
  X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                \
  X(event_synchronize, cuEventSynchronize, (CUevent event))                                       \
  X(event_elapsed, cuEventElapsedTime, (float* milliseconds, CUevent begin, CUevent end))
// clang-format on

}  // namespace fa::cuda
