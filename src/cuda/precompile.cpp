#include "cuda/precompile.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <mutex>

#include "cuda/bundle.hpp"
#include "cuda/parallel.hpp"
#include "fa/attention.hpp"
#include "plan/preset.hpp"

namespace fa::cuda {

namespace {

const std::vector<std::string>& known_archs() {
  static const std::vector<std::string> archs{"sm_80",  "sm_86",  "sm_87",  "sm_89", "sm_90a",
                                              "sm_100", "sm_103", "sm_120", "sm_121"};
  return archs;
}

void need_one_of(const char* argument, const std::string& given,
                 const std::vector<std::string>& allowed) {
  if (std::ranges::find(allowed, given) != allowed.end()) return;
  throw Error(Status::invalid_argument, fmt::format("{}: is \"{}\"; allowed are {}", argument,
                                                    given, fmt::join(allowed, ", ")));
}

}  // namespace

std::vector<Target> preset_targets(const std::string& preset,
                                   const std::vector<std::string>& archs) {
  need_one_of("preset", preset, presets());
  if (archs.empty()) {
    throw Error(Status::invalid_argument,
                fmt::format("arch: none is given; allowed are {}", fmt::join(known_archs(), ", ")));
  }
  for (const std::string& arch : archs) need_one_of("arch", arch, known_archs());
  std::vector<Target> targets;
  for (const std::string& arch : archs) {
    const std::vector<KernelSpec> specs = preset_kernels(preset, arch);
    if (specs.empty()) {
      throw Error(Status::unsupported,
                  fmt::format("preset: {} has no kernels for {}", preset, arch));
    }
    for (const KernelSpec& spec : specs) targets.push_back({spec, arch});
  }
  return targets;
}

int64_t precompile(KernelStore& store, const std::string& path, const std::vector<Target>& targets,
                   int threads, const std::function<void(int64_t)>& progress) {
  check_bundle_path(path);
  std::vector<BundleEntry> entries(targets.size());
  std::mutex mutex;
  int64_t done = 0;
  parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
    const auto& [spec, arch] = targets[i];
    entries[i] = {store.key(spec, arch), *store.cubin(spec, arch)};
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done);
  });
  return write_bundle(path, store.headers_digest(), entries);
}

}  // namespace fa::cuda
