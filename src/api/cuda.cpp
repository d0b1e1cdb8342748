// What the public functions about CUDA do: information, and bundles of kernels.
#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

#include "cuda/launch/precompile.hpp"
#include "cuda/runtime/device.hpp"
#include "cuda/runtime/driver.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda/runtime/nvrtc.hpp"
#include "fa/attention.hpp"
#include "plan/cuda/gpu.hpp"
#include "plan/cuda/kernel_config.hpp"
#include "system/shown.hpp"

namespace fa {

namespace {

using namespace fa::cuda;

/// `value`'s text, or the text of its error: fa_cuda_info tells what is wrong with an installation
/// and does not throw.
std::string told(const std::function<std::string()>& value) {
  try {
    return value();
  } catch (const Error& error) {
    return fmt::format("none: {}", error.what());
  }
}

std::string device_text(int id) {
  const DeviceInfo& info = device(id);
  return fmt::format("{} ({}), {} SMs, {} KiB of shared memory a block, {} MiB of L2", info.name,
                     info.arch(), info.sm_count, info.shared_per_block / 1024, info.l2_bytes >> 20);
}

std::string cache_text(const DiskCache& cache) {
  if (!cache.problem().empty()) {
    return fmt::format("not used: {}{}{}", system::shown(cache.folder()),
                       cache.folder().empty() ? "" : ": ", cache.problem());
  }
  const DiskCache::Usage usage = cache.usage();
  return fmt::format("{}, {} kernels, {} bytes", system::shown(cache.folder()), usage.entries,
                     usage.bytes);
}

std::string store_text() {
  const KernelStore& store = kernel_store();
  const StoreCounters counters = store.counters();
  std::string text = fmt::format(
      "kernel cache: {}\nkernels: {} compiled in {:.1f} s, {} from the cache, {} from bundles\n",
      cache_text(store.cache()), counters.compiled, counters.compile_seconds, counters.from_disk,
      counters.from_bundle);
  for (const Bundle& bundle : store.bundles()) {
    text += fmt::format("bundle: {}, {} kernels{}\n", system::shown(bundle.path()), bundle.size(),
                        bundle.sources() == store.headers_digest()
                            ? ""
                            : ", not used: made by another version of this library");
  }
  return text;
}

}  // namespace

std::string cuda_info() {
  const Driver* api = driver_if_any();
  std::string text = api == nullptr ? fmt::format("cuda driver: none: {}\n", driver_problem())
                                    : fmt::format("cuda driver: CUDA {}.{}\n", api->version / 1000,
                                                  api->version % 1000 / 10);
  for (int id = 0; id < device_count(); ++id) {
    text += fmt::format("cuda device {}: {}\n", id, told([&] { return device_text(id); }));
  }
  text += fmt::format("nvrtc: {}\n", told([] {
                        return fmt::format("{}.{} {}", nvrtc().major, nvrtc().minor,
                                           system::shown(nvrtc().path));
                      }));
  try {
    text += store_text();
  } catch (const Error& error) {
    text += fmt::format("bundle: {}\n", error.what());
  }
  return text;
}

std::vector<std::string> bundle_kernels(const std::string& preset,
                                        const std::vector<std::string>& archs) {
  std::vector<std::string> lines;
  for (const auto& [spec, arch] : preset_targets(preset, archs)) {
    lines.push_back(fmt::format("{} {}, {} threads, {} bytes of shared memory: {}", arch,
                                spec.entry, spec.threads, spec.shared_bytes, spec.constants));
  }
  return lines;
}

BundleSize compile_bundle(const std::string& path, const std::string& preset,
                          const std::vector<std::string>& archs, int32_t threads,
                          const std::function<void(int64_t done, int64_t total)>& progress) {
  if (path.empty()) {
    throw Error(Status::invalid_argument, "path: is empty; name the bundle that is to be written");
  }
  if (threads < 0) {
    throw Error(Status::invalid_argument,
                fmt::format("threads: is {}; allowed are 0 (one for each core) or more", threads));
  }
  const std::vector<Target> targets = preset_targets(preset, archs);
  const auto total = static_cast<int64_t>(targets.size());
  const Precompiled made = precompile(kernel_store(), path, targets, threads, [&](int64_t done) {
    if (progress) progress(done, total);
  });
  BundleSize size{total, made.bytes, {}};
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto& [spec, arch] = targets[i];
    const auto& [registers, spilled, code] = made.uses[i];
    size.each.push_back(
        {arch, spec.entry, spec.constants, spec.threads, registers, spilled, spec.shared_bytes,
         resident_blocks(*known_gpu(arch), spec.threads, registers, spec.shared_bytes),
         code.hex()});
  }
  return size;
}

}  // namespace fa
