#include "cuda/runtime/kernel_store.hpp"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "cuda/runtime/compiler.hpp"
#include "cuda/runtime/device.hpp"
#include "cuda/runtime/nvrtc.hpp"
#include "cuda/runtime/parallel.hpp"
#include "fa/attention.hpp"
#include "system/shown.hpp"

namespace fa::cuda {

namespace {

/// Unloaded again unless it is kept.
class Library {
 public:
  explicit Library(const std::vector<char>& code) {
    check(driver().library_load(&library_, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
          "loading a kernel");
  }
  ~Library() {
    if (library_ != nullptr) driver().library_unload(library_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  CUkernel kernel(const std::string& entry) const {
    CUkernel kernel = nullptr;
    check(driver().library_kernel(&kernel, library_, entry.c_str()), entry.c_str());
    return kernel;
  }
  void keep() { library_ = nullptr; }

 private:
  CUlibrary library_ = nullptr;
};

LoadedKernel load_code(const std::vector<char>& code, const KernelSpec& spec, int device) {
  const Driver& api = driver();
  const CurrentContext context(device);
  const RelaxedCapture relaxed;
  Library library(code);
  const CUkernel kernel = library.kernel(spec.entry);
  if (spec.shared_bytes > 0) {
    check(api.kernel_set_attribute(function_attribute::max_dynamic_shared, spec.shared_bytes,
                                   kernel, device),
          "allowing a kernel its shared memory");
  }
  // Loads it into the context now: at its first launch a capture might be under way.
  CUfunction function = nullptr;
  check(api.kernel_function(&function, kernel), "loading a kernel");
  LoadedKernel loaded;
  loaded.function = reinterpret_cast<CUfunction>(kernel);
  check(api.kernel_attribute(&loaded.registers, function_attribute::registers, kernel, device),
        "asking for a kernel's registers");
  check(api.kernel_attribute(&loaded.local_bytes, function_attribute::local_bytes, kernel, device),
        "asking for a kernel's local memory");
  library.keep();
  return loaded;
}

/// What the error about a missing NVRTC says of the bundles that were asked first.
std::string lacking(const std::vector<Bundle>& bundles, const Digest& headers_digest) {
  std::string text;
  for (const Bundle& bundle : bundles) {
    text += fmt::format(
        "; FA_BUNDLE: {} {}", system::shown(bundle.path()),
        bundle.sources() == headers_digest
            ? "does not hold it"
            : "was made by another version of this library: make it again with `fa compile`");
  }
  return text;
}

}  // namespace

KernelStore::KernelStore(std::span<const Source> headers, const Digest& headers_digest,
                         DiskCache cache, std::vector<Bundle> bundles)
    : headers_(headers),
      headers_digest_(headers_digest),
      cache_(std::move(cache)),
      bundles_(std::move(bundles)) {}

Digest KernelStore::key(const KernelSpec& spec, const std::string& arch) const {
  std::string options;
  for (const char* option : compile_options) options += fmt::format("{} ", option);
  return digest_of(headers_digest_.hex(), options, arch, spec.program);
}

std::shared_ptr<const KernelStore::Code> KernelStore::cubin(const KernelSpec& spec,
                                                            const std::string& arch) {
  const Digest name = key(spec, arch);
  auto code = codes_.get(name, [&] { return make_cubin(spec, arch, name); });
  codes_.forget(name);
  return code;
}

KernelStore::Code KernelStore::make_cubin(const KernelSpec& spec, const std::string& arch,
                                          const Digest& key) {
  for (const Bundle& bundle : bundles_) {
    if (auto code = bundle.load(key)) {
      ++from_bundle_;
      return std::move(*code);
    }
  }
  const auto cached = [&](const Digest& name) {
    auto code = cache_.load(name);
    if (code) ++from_disk_;
    return code;
  };
  try {
    if (auto code = cached(digest_of(key.hex(), nvrtc_identity()))) return std::move(*code);
    nvrtc();
  } catch (const Error& error) {
    throw Error(error.status(), fmt::format("{} (for {} on {}){}", error.what(), spec.entry, arch,
                                            lacking(bundles_, headers_digest_)));
  }
  // The compiler that was opened may not be the one tried first, and while this process waited for
  // the lock another one may have made the kernel.
  const Digest name = digest_of(key.hex(), nvrtc_identity());
  const system::File lock = cache_.lock(name);
  if (auto code = cached(name)) return std::move(*code);
  const auto begin = std::chrono::steady_clock::now();
  Code code = compile(spec, arch, headers_);
  const auto end = std::chrono::steady_clock::now();
  ++compiled_;
  compile_microseconds_ +=
      std::chrono::duration_cast<std::chrono::microseconds>(end - begin).count();
  cache_.store(name, code);
  return code;
}

const LoadedKernel& KernelStore::load(const KernelSpec& spec, int device) {
  const Digest name = digest_of(spec.entry, spec.program, std::to_string(spec.shared_bytes),
                                std::to_string(device));
  return *kernels_.get(name, [&] {
    const DeviceInfo& info = cuda::device(device);
    if (spec.shared_bytes > info.shared_per_block) {
      throw Error(Status::internal,
                  fmt::format("cuda: {} wants {} bytes of shared memory; {} has {}", spec.entry,
                              spec.shared_bytes, info.name, info.shared_per_block));
    }
    return load_code(*cubin(spec, info.arch()), spec, device);
  });
}

StoreCounters KernelStore::counters() const {
  return {compiled_, from_disk_, from_bundle_, static_cast<double>(compile_microseconds_) * 1e-6};
}

KernelStore& kernel_store() {
  static auto* store =  // never destroyed: threads may still call at exit
      new KernelStore(sources(), digest(sources_digest()), DiskCache::of_environment(),
                      Bundle::of_environment());
  return *store;
}

void prepare(std::span<const KernelSpec> specs, int device, int threads) {
  parallel_for(static_cast<int64_t>(specs.size()), threads,
               [&](int64_t i) { load(specs[i], device); });
}

}  // namespace fa::cuda
