#include "cpu/target.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cctype>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "fa/attention.hpp"
#include "hwy/highway.h"
#include "hwy/targets.h"
#include "system/environment.hpp"
#include "system/shown.hpp"

namespace fa::cpu {

namespace {

struct Target {
  int64_t bit;
  std::string name;
  Arithmetic bfloat16 = Arithmetic::widened;
};

#if HWY_ARCH_X86
bool has_bfloat16_products() { return __builtin_cpu_supports("avx512bf16") != 0; }
/// AMD's CPUs multiply pairs at twice the rate of float32 (a Zen 4 core: 236 and 118 GFLOP/s),
/// Intel's at half of it (16 cores of a Xeon with AMX: 1395 and 2834).
bool has_fast_bfloat16_products() { return __builtin_cpu_is("amd") != 0; }

#else
bool has_bfloat16_products() { return false; }
bool has_fast_bfloat16_products() { return false; }
#endif

#if defined(__linux__) && defined(__x86_64__)
constexpr long tile_data = 18;  // XFEATURE_XTILEDATA

/// Whether the CPU has AMX (CPUID 7: EDX bits 22 and 24) and Linux knows its state.
bool has_tiles() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) return false;
  constexpr long get_supported = 0x1021;  // ARCH_GET_XCOMP_SUPP
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, get_supported, &supported) == 0 &&
         (supported >> tile_data & 1) != 0;
}

/// Asks Linux for the state of the tiles, which makes the process's signal frames larger; so only
/// if tiles are to be used. Linux refuses where a thread's signal stack is too small.
bool granted_tiles() {
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
bool has_tiles() { return false; }
bool granted_tiles() { return false; }
#endif

/// The targets that this CPU can run, best first. Lower bits are better targets.
std::vector<Target> supported() {
  std::vector<Target> targets;
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  for (int64_t left = usable; left != 0; left &= left - 1) {
    const int64_t bit = left & -left;
    std::string name = hwy::TargetName(bit);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const bool pairs = bit <= HWY_AVX3 && has_bfloat16_products();
    const Target in_pairs{bit, name + "_bf16", Arithmetic::pairs};
    if (pairs && has_tiles()) targets.push_back({bit, name + "_amx", Arithmetic::tiles});
    if (pairs && has_fast_bfloat16_products()) targets.push_back(in_pairs);
    targets.push_back({bit, name});
    if (pairs && !has_fast_bfloat16_products()) targets.push_back(in_pairs);
  }
  return targets;
}

Target choose() {
  const std::vector<Target> targets = supported();
  if (targets.empty()) {
    throw Error(Status::unsupported,
                "this CPU lacks every instruction set the library was built for");
  }
  const std::string wanted = system::variable("FA_CPU_TARGET");
  for (const Target& target : targets) {
    if (!wanted.empty() && target.name != wanted) continue;
    if (target.bfloat16 != Arithmetic::tiles || granted_tiles()) return target;
  }
  throw Error(Status::invalid_argument,
              fmt::format("FA_CPU_TARGET: is \"{}\"; this CPU can run: {}", system::shown(wanted),
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

Arithmetic bfloat16_arithmetic() { return chosen().bfloat16; }

std::string target_name() { return chosen().name; }

std::vector<std::string> available_targets() {
  std::vector<std::string> names;
  for (const Target& target : supported()) names.push_back(target.name);
  return names;
}

}  // namespace fa::cpu
