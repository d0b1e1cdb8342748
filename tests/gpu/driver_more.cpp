#include "gpu/driver_more.hpp"

#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/driver.hpp"

namespace fa::test {

const DriverMore& driver_more() {
  static const DriverMore more = [] {
    (void)cuda::driver();
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto load = [&](auto& function, const char* symbol) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
      if (function == nullptr)
        throw std::runtime_error(std::string("libcuda.so.1 lacks ") + symbol);
    };
    DriverMore loaded;
#define FA_CUDA_TEST_LOAD(member, symbol, parameters) load(loaded.member, #symbol);
    FA_CUDA_TEST_FUNCTIONS(FA_CUDA_TEST_LOAD)
#undef FA_CUDA_TEST_LOAD
    return loaded;
  }();
  return more;
}

size_t free_memory() {
  const cuda::CurrentContext context(0);
  size_t free = 0, total = 0;
  cuda::check(driver_more().memory_info(&free, &total), "asking for the free memory");
  return free;
}

}  // namespace fa::test
