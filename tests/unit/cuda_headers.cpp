// Compiled only (by the script cuda_headers): every declaration of ours beside the real one.
#include <cuda.h>
#include <nvrtc.h>

#include <cstddef>
#include <type_traits>

#include "cuda/runtime/driver_api.hpp"
#include "cuda/runtime/nvrtc_api.hpp"
#include "emulator/tensor_map.hpp"
#include "gpu/driver_more.hpp"

namespace fa::cuda {
namespace {

// Types as the ABI sees them: an enum is an int, a pointer to a struct a pointer.
template <typename T>
struct Plain {
  using type = std::conditional_t<std::is_enum_v<T>, int, T>;
};
template <typename T>
struct Plain<T*> {
  using structure = std::conditional_t<std::is_const_v<T>, const void, void>;
  using pointee = typename Plain<std::remove_const_t<T>>::type;
  using other = std::conditional_t<std::is_const_v<T>, const pointee, pointee>;
  using type = std::conditional_t<std::is_class_v<T>, structure, other>*;
};
template <typename R, typename... A>
struct Plain<R(A...)> {
  using type = typename Plain<R>::type(typename Plain<A>::type...);
};

template <typename A, typename B>
inline constexpr bool same = std::is_same_v<typename Plain<A>::type, typename Plain<B>::type>;

static_assert(same<int(const char**), CUresult(const char**)>);
static_assert(!same<int(const char**), int(char**)>);
static_assert(!same<int(unsigned), int(int)>);

#define FA_COMPARE(member, symbol, parameters) \
  static_assert(same<decltype(::symbol), CUresult parameters>, #symbol);
FA_CUDA_FUNCTIONS(FA_COMPARE)
FA_NVRTC_FUNCTIONS(FA_COMPARE)

static_assert(success == CUDA_SUCCESS);
static_assert(error_out_of_memory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(device_attribute::sm_count == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(device_attribute::l2_bytes == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
static_assert(device_attribute::major == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(device_attribute::minor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(device_attribute::shared_per_sm ==
              CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
static_assert(device_attribute::registers_per_sm ==
              CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
static_assert(device_attribute::shared_per_block ==
              CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(device_attribute::threads_per_sm ==
              CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
static_assert(device_attribute::blocks_per_sm == CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
static_assert(tensor_map_type::float16 == CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
static_assert(tensor_map_type::bfloat16 == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(tensor_map_promotion_256 == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(device_attribute::memory_pools == CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
static_assert(function_attribute::local_bytes == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
static_assert(function_attribute::registers == CU_FUNC_ATTRIBUTE_NUM_REGS);
static_assert(function_attribute::max_dynamic_shared ==
              CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(capture_mode_relaxed == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(pool_release_threshold == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD);
static_assert(launch_attribute::programmatic_serialization ==
              CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(sizeof(CUlaunchAttribute) == sizeof(::CUlaunchAttribute));
static_assert(offsetof(CUlaunchAttribute, value) == offsetof(::CUlaunchAttribute, value));
static_assert(sizeof(CUlaunchConfig) == sizeof(::CUlaunchConfig));
static_assert(offsetof(CUlaunchConfig, block) == offsetof(::CUlaunchConfig, blockDimX));
static_assert(offsetof(CUlaunchConfig, shared_bytes) == offsetof(::CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(CUlaunchConfig, stream) == offsetof(::CUlaunchConfig, hStream));
static_assert(offsetof(CUlaunchConfig, attributes) == offsetof(::CUlaunchConfig, attrs));
static_assert(offsetof(CUlaunchConfig, count) == offsetof(::CUlaunchConfig, numAttrs));
static_assert(nvrtc_success == NVRTC_SUCCESS);
static_assert(nvrtc_error_compilation == NVRTC_ERROR_COMPILATION);
static_assert(sizeof(CUdeviceptr) == sizeof(::CUdeviceptr));

static_assert(same<decltype(::cuTensorMapEncodeTiled), emulator::EncodeTiled>);
static_assert(sizeof(kernel::TensorMap) == sizeof(CUtensorMap));
static_assert(alignof(kernel::TensorMap) == 64);  // what the driver asks for, if not the type
static_assert(static_cast<int>(kernel::Swizzle::none) == CU_TENSOR_MAP_SWIZZLE_NONE);
static_assert(static_cast<int>(kernel::Swizzle::within_32) == CU_TENSOR_MAP_SWIZZLE_32B);
static_assert(static_cast<int>(kernel::Swizzle::within_64) == CU_TENSOR_MAP_SWIZZLE_64B);
static_assert(static_cast<int>(kernel::Swizzle::within_128) == CU_TENSOR_MAP_SWIZZLE_128B);

constexpr CUmemPoolProps defaults;
static_assert(defaults.allocation_type == CU_MEM_ALLOCATION_TYPE_PINNED);
static_assert(defaults.handle_types == CU_MEM_HANDLE_TYPE_NONE);
static_assert(defaults.location_type == CU_MEM_LOCATION_TYPE_DEVICE);
static_assert(sizeof(CUmemPoolProps) == sizeof(::CUmemPoolProps));
static_assert(offsetof(CUmemPoolProps, allocation_type) == offsetof(::CUmemPoolProps, allocType));
static_assert(offsetof(CUmemPoolProps, handle_types) == offsetof(::CUmemPoolProps, handleTypes));
static_assert(offsetof(CUmemPoolProps, location_type) == offsetof(::CUmemPoolProps, location.type));
static_assert(offsetof(CUmemPoolProps, location_id) == offsetof(::CUmemPoolProps, location.id));
static_assert(offsetof(CUmemPoolProps, win32_security) ==
              offsetof(::CUmemPoolProps, win32SecurityAttributes));
static_assert(offsetof(CUmemPoolProps, max_size) == offsetof(::CUmemPoolProps, maxSize));
static_assert(offsetof(CUmemPoolProps, usage) == offsetof(::CUmemPoolProps, usage));

}  // namespace
}  // namespace fa::cuda

namespace fa::test {
namespace {

using cuda::same;

FA_CUDA_TEST_FUNCTIONS(FA_COMPARE)
static_assert(capture_mode_global == CU_STREAM_CAPTURE_MODE_GLOBAL);

}  // namespace
}  // namespace fa::test
