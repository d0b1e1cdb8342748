#include "cuda/launch/precompile.hpp"

#include <mutex>
#include <set>
#include <utility>

#include "cuda/runtime/bundle.hpp"
#include "cuda/runtime/parallel.hpp"
#include "fa/attention.hpp"
#include "plan/cuda/preset.hpp"

namespace fa::cuda {

std::vector<Target> preset_targets(const std::string& preset,
                                   const std::vector<std::string>& archs) {
  std::vector<Target> targets;
  std::set<std::string> seen;
  for (const std::string& arch : archs) {
    if (!seen.insert(arch).second) continue;
    for (const KernelSpec& spec : preset_kernels(preset, arch)) targets.push_back({spec, arch});
  }
  if (targets.empty()) throw Error(Status::invalid_argument, "arch: none is given; sm_90a is one");
  return targets;
}

Precompiled precompile(KernelStore& store, const std::string& path,
                       const std::vector<Target>& targets, int threads,
                       const std::function<void(int64_t)>& progress) {
  check_bundle_path(path);
  std::vector<BundleEntry> entries(targets.size());
  std::vector<CubinUse> uses(targets.size());
  std::mutex mutex;
  int64_t done = 0;
  parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
    const auto& [spec, arch] = targets[i];
    entries[i] = {store.key(spec, arch), *store.cubin(spec, arch)};
    uses[i] = cubin_use(entries[i].code, spec.entry);
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done);
  });
  return {write_bundle(path, store.headers_digest(), entries), std::move(uses)};
}

}  // namespace fa::cuda
