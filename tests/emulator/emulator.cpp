// A GPU on the CPU, for machines without one: a libcuda.so.1 whose memory is the host's and whose
// kernels are host code (tests/emulator/nvrtc.cpp), each thread a fiber. What it is strict about:
// warps run in random order between instructions that join them, asynchronous copies arrive only
// when they are waited for, and shared memory holds NaN at first. So a missing barrier or wait
// shows as a wrong result sooner than on a GPU, if not always. It knows nothing of time.
#include "emulator/kernels/emulator.hpp"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "cuda/driver_api.hpp"
#include "emulator/image.hpp"

#undef threadIdx
#undef blockIdx
#undef gridDim

namespace emulator {
namespace {

namespace context = boost::context;

constexpr size_t stack_bytes = 256 << 10;
constexpr size_t shared_guard = 4096;  // behind a block's shared memory
constexpr char poison = '\xff';        // NaN in all formats

[[noreturn]] void stop(const char* why) {
  std::fprintf(stderr, "emulator: %s\n", why);
  std::abort();
}

struct Copy {
  unsigned to;
  const void* from;
  int bytes;
  bool valid;
};

enum class State { ready, waiting, done };

struct Block;

struct Thread {
  Block* block = nullptr;
  Index index{};
  State state = State::ready;
  context::fiber fiber, caller;
  void (*operation)(void* const*) = nullptr;
  void* operand = nullptr;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;

  void yield() { caller = std::move(caller).resume(); }
};

struct Warp {
  Thread* lanes[32];
  int arrived = 0;
};

struct Barrier {
  int arrived = 0;
  std::vector<Thread*> waiting;
};

struct Block {
  Index index{}, grid{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  bool any_so_far = false, any_result = false;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;
  long spins = 0;
};

thread_local Thread* current;

const Index& thread_index() { return current->index; }
const Index& block_index() { return current->block->index; }
const Index& grid_size() { return current->block->grid; }
char* shared() { return current->block->shared; }

void warp_operation(void (*operation)(void* const*), void* mine) {
  Thread& me = *current;
  Warp& warp = me.block->warps[me.index.x / 32];
  me.operation = operation;
  me.operand = mine;
  if (++warp.arrived < 32) {
    me.state = State::waiting;
    return me.yield();
  }
  warp.arrived = 0;
  void* operands[32];
  for (int i = 0; i < 32; ++i) {
    if (warp.lanes[i]->operation != operation) stop("lanes of a warp have parted");
    operands[i] = warp.lanes[i]->operand;
  }
  operation(operands);
  for (Thread* lane : warp.lanes) lane->state = State::ready;
}

void barrier(int name, int threads, bool wait) {
  Thread& me = *current;
  Barrier& barrier = me.block->barriers[name];
  if (threads == 0) threads = static_cast<int>(me.block->threads.size());
  const bool last = ++barrier.arrived == threads;
  if (barrier.arrived > threads) stop("too many threads at a barrier");
  if (last) {
    for (Thread* other : barrier.waiting) other->state = State::ready;
    barrier = {};
  } else if (wait) {
    barrier.waiting.push_back(&me);
    me.state = State::waiting;
    me.yield();
  }
}

bool any(bool mine) {
  Block& block = *current->block;
  block.any_so_far = block.any_so_far || mine;
  if (block.barriers[0].arrived + 1 == static_cast<int>(block.threads.size())) {
    block.any_result = block.any_so_far;
    block.any_so_far = false;
  }
  barrier(0, 0, true);
  return block.any_result;
}

void copy_async(unsigned to, const void* from, int bytes, bool valid) {
  current->open.push_back({to, from, bytes, valid});
}
void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void wait_copies(int pending) {
  Thread& me = *current;
  for (; me.groups.size() > static_cast<size_t>(pending); me.groups.pop_front()) {
    for (const Copy& copy : me.groups.front()) {
      char* to = me.block->shared + copy.to;
      copy.valid ? std::memcpy(to, copy.from, static_cast<size_t>(copy.bytes))
                 : std::memset(to, 0, static_cast<size_t>(copy.bytes));
    }
  }
}

void spin() {
  if (++current->block->spins > 100000) stop("a block waits for one that comes later");
  current->yield();
}

constexpr Runtime the_runtime{thread_index, block_index, grid_size,  warp_operation,
                              barrier,      shared,      copy_async, commit_copies,
                              wait_copies,  any,         spin};

using Call = void (*)(const void*);

struct Kernel {
  Call call;
};

struct Library {
  void* handle;
};

/// Runs one block's threads to their ends.
void run_block(Block& block, Call call, const void* parameters, std::mt19937& random) {
  thread_local context::pooled_fixedsize_stack stacks(stack_bytes);
  for (Thread& thread : block.threads) {
    thread.fiber = context::fiber(std::allocator_arg, stacks, [&](context::fiber&& caller) {
      thread.caller = std::move(caller);
      call(parameters);
      thread.state = State::done;
      return std::move(thread.caller);
    });
  }
  std::vector<Warp*> runnable;
  for (;;) {
    runnable.clear();
    bool all_done = true;
    for (Warp& warp : block.warps) {
      bool ready = false;
      for (const Thread* lane : warp.lanes) {
        ready = ready || lane->state == State::ready;
        all_done = all_done && lane->state == State::done;
      }
      if (ready) runnable.push_back(&warp);
    }
    if (all_done) return;
    if (runnable.empty()) stop("threads of a block wait for each other");
    Warp& warp = *runnable[random() % runnable.size()];
    // A while at a time, or the choice would take longer than the work.
    for (unsigned turns = 1 + random() % 64; turns > 0; --turns) {
      bool any_ready = false;
      for (Thread* lane : warp.lanes) {
        if (lane->state != State::ready) continue;
        any_ready = true;
        current = lane;
        lane->fiber = std::move(lane->fiber).resume();
      }
      if (!any_ready) break;
    }
  }
}

void launch(Call call, Index grid, unsigned threads, size_t shared_bytes, const void* parameters) {
  if (threads % 32 != 0) stop("a block's threads are no whole warps");
  std::mt19937 random(1);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        Block block;
        block.index = {x, y, z};
        block.grid = grid;
        block.threads.resize(threads);
        block.warps.resize(threads / 32);
        for (unsigned i = 0; i < threads; ++i) {
          block.threads[i].block = &block;
          block.threads[i].index = {i, 0, 0};
          block.warps[i / 32].lanes[i % 32] = &block.threads[i];
        }
        const size_t bytes = shared_bytes + shared_guard;
        block.memory = std::make_unique<char[]>(bytes + 128);
        const auto address = reinterpret_cast<uintptr_t>(block.memory.get());
        block.shared = block.memory.get() + (128 - address % 128) % 128;
        std::memset(block.shared, poison, bytes);
        run_block(block, call, parameters, random);
        for (size_t i = shared_bytes; i < bytes; ++i) {
          if (block.shared[i] != poison) stop("written behind a block's shared memory");
        }
      }
    }
  }
}

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
int dummy;

}  // namespace
}  // namespace emulator

using namespace fa::cuda;
using emulator::failed;

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define API extern "C" __attribute__((visibility("default"))) CUresult

API cuInit(unsigned) { return success; }
API cuDriverGetVersion(int* version) {
  *version = 13000;
  return success;
}
API cuGetErrorName(CUresult, const char** name) {
  *name = "EMULATOR_ERROR";
  return success;
}
API cuGetErrorString(CUresult, const char** text) {
  *text = "the emulator cannot";
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
  switch (attribute) {
    case device_attribute::sm_count:
      *value = 4;
      break;
    case device_attribute::l2_bytes:
      *value = 50 << 20;
      break;
    case device_attribute::threads_per_sm:
      *value = 2048;
      break;
    case device_attribute::major:
      *value = 9;
      break;
    case device_attribute::minor:
      *value = 0;
      break;
    case device_attribute::shared_per_sm:
      *value = 228 << 10;
      break;
    case device_attribute::registers_per_sm:
      *value = 65536;
      break;
    case device_attribute::shared_per_block:
      *value = 227 << 10;
      break;
    case device_attribute::blocks_per_sm:
      *value = 32;
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
  *context = A_CONTEXT;
  return success;
}
API cuCtxSetCurrent(CUcontext) { return success; }
API cuCtxPushCurrent_v2(CUcontext) { return success; }
API cuCtxPopCurrent_v2(CUcontext* context) {
  if (context != nullptr) *context = A_CONTEXT;
  return success;
}
API cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return success;
}
API cuCtxSynchronize() { return success; }
API cuStreamCreate(CUstream* stream, unsigned) {
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
  if (call == nullptr) return failed;
  *kernel =
      reinterpret_cast<CUkernel>(new emulator::Kernel{reinterpret_cast<emulator::Call>(call)});
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
  emulator::launch(reinterpret_cast<emulator::Kernel*>(function)->call, {grid_x, grid_y, grid_z},
                   block_x, shared_bytes, parameters[0]);
  return success;
}
API cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  void* memory = std::aligned_alloc(256, (bytes + 511) / 256 * 256);
  *pointer = reinterpret_cast<CUdeviceptr>(memory);
  return memory == nullptr ? error_out_of_memory : success;
}
API cuMemFree_v2(CUdeviceptr pointer) {
  std::free(reinterpret_cast<void*>(pointer));
  return success;
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return success;
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return success;
}
API cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, size_t count, CUstream) {
  std::memset(reinterpret_cast<void*>(pointer), value, count);
  return success;
}
API cuMemsetD32Async(CUdeviceptr pointer, unsigned value, size_t count, CUstream) {
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
  const CUresult result = cuMemAlloc_v2(pointer, bytes);
  if (result == success) std::memset(reinterpret_cast<void*>(*pointer), emulator::poison, bytes);
  return result;
}
API cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return cuMemFree_v2(pointer); }
API cuEventCreate(CUevent* event, unsigned) {
  *event = reinterpret_cast<CUevent>(&emulator::dummy);
  return success;
}
API cuEventDestroy_v2(CUevent) { return success; }
API cuEventRecord(CUevent, CUstream) { return success; }
API cuEventSynchronize(CUevent) { return success; }
API cuEventElapsedTime(float* milliseconds, CUevent, CUevent) {
  *milliseconds = 1;
  return success;
}
