#include "cpu/target.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cctype>
#include <cstdlib>

#include "fa/attention.hpp"
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace fa::cpu {

namespace {

struct Target {
  int64_t bit;
  std::string name;
  bool bfloat16 = false;
};

bool has_bfloat16_products() {
#if HWY_ARCH_X86
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

/// Lower bits are better targets.
std::vector<Target> supported() {
  std::vector<Target> targets;
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  for (int64_t left = usable; left != 0; left &= left - 1) {
    const int64_t bit = left & -left;
    std::string name = hwy::TargetName(bit);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (bit <= HWY_AVX3 && has_bfloat16_products()) targets.push_back({bit, name + "_bf16", true});
    targets.push_back({bit, name});
  }
  return targets;
}

Target choose() {
  const std::vector<Target> targets = supported();
  if (targets.empty()) {
    throw Error(Status::unsupported,
                "this CPU lacks every instruction set the library was built for");
  }
  const char* wanted = std::getenv("FA_CPU_TARGET");
  if (wanted == nullptr || *wanted == '\0') return targets.front();
  for (const Target& target : targets) {
    if (target.name == wanted) return target;
  }
  throw Error(Status::invalid_argument,
              fmt::format("FA_CPU_TARGET: is \"{}\"; this CPU can run: {}", wanted,
                          fmt::join(available_targets(), ", ")));
}

const Target& chosen() {
  static const Target target = choose();
  return target;
}

}  // namespace

size_t target_index() {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
  chosen();  // throws when the CPU lacks it
  return 0;
#else
  hwy::ChosenTarget target;
  target.Update(chosen().bit);
  return target.GetIndex();
#endif
}

bool multiplies_bfloat16() { return chosen().bfloat16; }

std::string target_name() { return chosen().name; }

std::vector<std::string> available_targets() {
  std::vector<std::string> names;
  for (const Target& target : supported()) names.push_back(target.name);
  return names;
}

}  // namespace fa::cpu
