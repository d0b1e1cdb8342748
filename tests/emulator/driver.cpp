// A libcuda.so.1 for machines without a GPU: its memory is the host's, its kernels are host code
// (nvrtc.cpp) and run at once (run.cpp).
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/runtime/driver_api.hpp"
#include "emulator/image.hpp"
#include "emulator/memory.hpp"
#include "emulator/run.hpp"
#include "emulator/tensor_map.hpp"

namespace emulator {
namespace {

using fa::cuda::CUcontext;

struct Kernel {
  Call call;
  unsigned cluster;
};

struct Library {
  void* handle;
};

Library* open_library(const void* code) {
  const auto* image = static_cast<const Image*>(code);
  if (std::memcmp(image->magic, image_magic, sizeof image->magic) != 0) return nullptr;
  const int file = memfd_create("kernel", 0);
  const char* bytes = static_cast<const char*>(code) + sizeof(Image);
  for (size_t done = 0; done < image->bytes;) {
    const ssize_t wrote = write(file, bytes + done, image->bytes - done);
    if (wrote <= 0) return nullptr;
    done += static_cast<size_t>(wrote);
  }
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    std::fprintf(stderr, "emulator: %s\n", dlerror());
    return nullptr;
  }
  reinterpret_cast<void (*)(const Runtime*)>(dlsym(handle, "emulator_bind"))(&the_runtime);
  return new Library{handle};
}

constexpr int failed = 1;
constexpr int invalid_context = 201;
int dummy;

/// What differs between the GPUs that can be emulated.
struct Gpu {
  const char* name;  ///< compute capability
  int shared_kib;    ///< of a multiprocessor; a block may have 1 less
  int threads_per_sm;
  int blocks_per_sm;
};
constexpr Gpu gpus[] = {{"9.0", 228, 2048, 32}, {"8.0", 164, 2048, 32}, {"8.6", 100, 1536, 16}};

/// The one that FA_EMULATED_GPU names, 9.0 by default; null where it is none of these.
const Gpu* gpu() {
  const char* named = std::getenv("FA_EMULATED_GPU");
  for (const Gpu& gpu : gpus) {
    if (named == nullptr || std::strcmp(named, gpu.name) == 0) return &gpu;
  }
  return nullptr;
}

/// The current context of a thread is the last one pushed. A thread begins without one, as on a
/// device, so that a call that needs one fails here as it fails there.
thread_local std::vector<CUcontext> contexts;
bool has_context() { return !contexts.empty() && contexts.back() != nullptr; }

}  // namespace
}  // namespace emulator

using namespace fa::cuda;
using emulator::failed;

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define API extern "C" __attribute__((visibility("default"))) CUresult
#define NEEDS_CONTEXT \
  if (!emulator::has_context()) return emulator::invalid_context

API cuInit(unsigned) { return success; }
API cuDriverGetVersion(int* version) {
  *version = 13000;
  return success;
}
API cuGetErrorName(CUresult status, const char** name) {
  *name = status == emulator::invalid_context ? "CUDA_ERROR_INVALID_CONTEXT" : "EMULATOR_ERROR";
  return success;
}
API cuGetErrorString(CUresult status, const char** text) {
  *text = status == emulator::invalid_context ? "the thread has no current context"
                                              : "the emulator cannot";
  return success;
}
API cuDeviceGetCount(int* count) {
  *count = 1;
  return success;
}
API cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? success : failed;
}
API cuDeviceGetName(char* name, int length, CUdevice) {
  std::snprintf(name, static_cast<size_t>(length), "emulator");
  return success;
}
API cuDeviceGetAttribute(int* value, int attribute, CUdevice) {
  const emulator::Gpu* gpu = emulator::gpu();
  if (gpu == nullptr) return failed;
  switch (attribute) {
    case device_attribute::sm_count:
      *value = 4;
      break;
    case device_attribute::l2_bytes:
      *value = 50 << 20;
      break;
    case device_attribute::threads_per_sm:
      *value = gpu->threads_per_sm;
      break;
    case device_attribute::major:
      *value = gpu->name[0] - '0';
      break;
    case device_attribute::minor:
      *value = gpu->name[2] - '0';
      break;
    case device_attribute::shared_per_sm:
      *value = gpu->shared_kib << 10;
      break;
    case device_attribute::registers_per_sm:
      *value = 65536;
      break;
    case device_attribute::shared_per_block:
      *value = (gpu->shared_kib - 1) << 10;
      break;
    case device_attribute::blocks_per_sm:
      *value = gpu->blocks_per_sm;
      break;
    case device_attribute::memory_pools:
      *value = 1;
      break;
    default:
      return failed;
  }
  return success;
}
#define A_CONTEXT reinterpret_cast<CUcontext>(&emulator::dummy)
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = A_CONTEXT;
  return success;
}
API cuCtxGetCurrent(CUcontext* context) {
  *context = emulator::contexts.empty() ? nullptr : emulator::contexts.back();
  return success;
}
API cuCtxSetCurrent(CUcontext context) {
  if (!emulator::contexts.empty()) emulator::contexts.pop_back();
  if (context != nullptr) emulator::contexts.push_back(context);
  return success;
}
API cuCtxPushCurrent_v2(CUcontext context) {
  emulator::contexts.push_back(context);
  return success;
}
API cuCtxPopCurrent_v2(CUcontext* context) {
  NEEDS_CONTEXT;
  if (context != nullptr) *context = emulator::contexts.back();
  emulator::contexts.pop_back();
  return success;
}
API cuCtxGetDevice(CUdevice* device) {
  NEEDS_CONTEXT;
  *device = 0;
  return success;
}
API cuCtxSynchronize() {
  NEEDS_CONTEXT;
  return success;
}
API cuStreamCreate(CUstream* stream, unsigned) {
  NEEDS_CONTEXT;
  *stream = reinterpret_cast<CUstream>(new int);
  return success;
}
API cuStreamDestroy_v2(CUstream stream) {
  delete reinterpret_cast<int*>(stream);
  return success;
}
API cuStreamGetCtx(CUstream, CUcontext* context) {
  *context = A_CONTEXT;
  return success;
}
API cuStreamSynchronize(CUstream) { return success; }
API cuStreamIsCapturing(CUstream, int* status) {
  *status = 0;
  return success;
}
API cuThreadExchangeStreamCaptureMode(int* mode) {
  *mode = 0;
  return success;
}
API cuLibraryLoadData(CUlibrary* library, const void* code, int*, void**, unsigned, int*, void**,
                      unsigned) {
  auto* opened = emulator::open_library(code);
  *library = reinterpret_cast<CUlibrary>(opened);
  return opened == nullptr ? failed : success;
}
API cuLibraryUnload(CUlibrary library) {
  delete reinterpret_cast<emulator::Library*>(library);
  return success;
}
API cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  void* handle = reinterpret_cast<emulator::Library*>(library)->handle;
  void* call = dlsym(handle, (std::string("emulator_call_") + name).c_str());
  void* cluster = dlsym(handle, (std::string("emulator_cluster_") + name).c_str());
  if (call == nullptr || cluster == nullptr) return failed;
  *kernel = reinterpret_cast<CUkernel>(new emulator::Kernel{
      reinterpret_cast<emulator::Call>(call), *static_cast<const unsigned*>(cluster)});
  return success;
}
API cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return success;
}
API cuKernelGetAttribute(int* value, int, CUkernel, CUdevice) {
  *value = 0;
  return success;
}
API cuKernelSetAttribute(int, int, CUkernel, CUdevice) { return success; }
API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned, unsigned, unsigned shared_bytes, CUstream,
                   void** parameters, void**) {
  NEEDS_CONTEXT;
  constexpr unsigned most = 65535;  // blocks along y and z
  if (grid_y > most || grid_z > most) return failed;
  const auto& kernel = *reinterpret_cast<emulator::Kernel*>(function);
  if (grid_x % kernel.cluster != 0) return failed;
  emulator::launch(kernel.call,
                   {.grid = {grid_x, grid_y, grid_z},
                    .threads = block_x,
                    .shared_bytes = shared_bytes,
                    .cluster = kernel.cluster},
                   parameters[0]);
  return success;
}
/// Launches run one after the other, so that no attribute changes anything.
API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                     void** extra) {
  return cuLaunchKernel(function, config->grid[0], config->grid[1], config->grid[2],
                        config->block[0], config->block[1], config->block[2], config->shared_bytes,
                        config->stream, parameters, extra);
}
API cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  NEEDS_CONTEXT;
  void* memory = emulator::allocate(bytes);
  *pointer = reinterpret_cast<CUdeviceptr>(memory);
  return memory == nullptr ? error_out_of_memory : success;
}
API cuMemFree_v2(CUdeviceptr pointer) {
  emulator::release(reinterpret_cast<void*>(pointer));
  return success;
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream) {
  NEEDS_CONTEXT;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return success;
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream) {
  NEEDS_CONTEXT;
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return success;
}
API cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, size_t count, CUstream) {
  NEEDS_CONTEXT;
  std::memset(reinterpret_cast<void*>(pointer), value, count);
  return success;
}
API cuMemsetD32Async(CUdeviceptr pointer, unsigned value, size_t count, CUstream) {
  NEEDS_CONTEXT;
  for (size_t i = 0; i < count; ++i) reinterpret_cast<unsigned*>(pointer)[i] = value;
  return success;
}
API cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps*) {
  *pool = reinterpret_cast<CUmemoryPool>(&emulator::dummy);
  return success;
}
API cuMemPoolSetAttribute(CUmemoryPool, int, void*) { return success; }
API cuMemPoolTrimTo(CUmemoryPool, size_t) { return success; }
API cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t bytes, CUmemoryPool, CUstream) {
  return cuMemAlloc_v2(pointer, bytes);
}
API cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return cuMemFree_v2(pointer); }
API cuEventCreate(CUevent* event, unsigned) {
  NEEDS_CONTEXT;
  *event = reinterpret_cast<CUevent>(&emulator::dummy);
  return success;
}
API cuEventDestroy_v2(CUevent) { return success; }
API cuEventRecord(CUevent, CUstream) {
  NEEDS_CONTEXT;
  return success;
}
API cuEventSynchronize(CUevent) { return success; }
API cuEventElapsedTime(float* milliseconds, CUevent, CUevent) {
  *milliseconds = 1;
  return success;
}
API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* sizes,
                           const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                           int interleave, int swizzle, int promotion, int fill) {
  NEEDS_CONTEXT;
  return emulator::encode_tiled(map, type, rank, address, sizes, strides, box, steps, interleave,
                                swizzle, promotion, fill);
}
