#include "cuda/runtime/driver.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <new>

#include "fa/attention.hpp"
#include "system/library.hpp"

namespace fa::cuda {

namespace {

constexpr int oldest_version = 12000;  // the first with cuLibrary*

std::string describe(const Driver& driver, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.error_name(result, &name);
  driver.error_string(result, &text);
  return fmt::format("{} ({})", name == nullptr ? "unknown error" : name,
                     text == nullptr ? std::to_string(result) : text);
}

struct Opened {
  Opened() { problem = open(); }

  /// Why the driver cannot be used; empty when it can.
  std::string open() {
    void* library = system::open_library("libcuda.so.1", problem);
    if (library == nullptr) {
      return fmt::format("there is no NVIDIA driver (libcuda.so.1) here: {}", problem);
    }
    const auto load = [&](auto& function, const char* symbol) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
      return function != nullptr;
    };
    if (!load(driver.driver_version, "cuDriverGetVersion") ||
        driver.driver_version(&driver.version) != success) {
      return "libcuda.so.1 does not tell its version";
    }
    if (driver.version < oldest_version) {
      return fmt::format("the NVIDIA driver supports CUDA {}.{}; at least 12.0 is needed",
                         driver.version / 1000, driver.version % 1000 / 10);
    }
#define FA_CUDA_LOAD(member, symbol, parameters) \
  if (!load(driver.member, #symbol)) return "libcuda.so.1 lacks " #symbol;
    FA_CUDA_FUNCTIONS(FA_CUDA_LOAD)
#undef FA_CUDA_LOAD
    const CUresult result = driver.init(0);
    if (result != success) return "the NVIDIA driver does not start: " + describe(driver, result);
    return {};
  }

  Driver driver;
  std::string problem;
};

const Opened& opened() {
  static const auto* instance = new Opened;  // never destroyed: threads may still call at exit
  return *instance;
}

}  // namespace

const Driver* driver_if_any() { return opened().problem.empty() ? &opened().driver : nullptr; }

const std::string& driver_problem() { return opened().problem; }

const Driver& driver() {
  const Driver* found = driver_if_any();
  if (found == nullptr) throw Error(Status::unsupported, "cuda: " + driver_problem());
  return *found;
}

void check(CUresult result, const char* what) {
  if (result == success) return;
  throw Error(result == error_out_of_memory ? Status::out_of_memory : Status::internal,
              fmt::format("cuda: {}: {}", what, describe(driver(), result)));
}

}  // namespace fa::cuda
