#include "accepted.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace fa::fuzz {
namespace {

int64_t inputs = 0;
int64_t accepted = 0;

void judge() {
  std::fprintf(stderr, "%s accepted %lld of %lld inputs\n", program_invocation_short_name,
               static_cast<long long>(accepted), static_cast<long long>(inputs));
  if (accepted == 0 && inputs > 1) std::_Exit(1);  // a single one is a finding seen again
}

}  // namespace

void judge_at_exit() { std::atexit(judge); }

void count(bool valid) {
  ++inputs;
  if (valid) ++accepted;
}

void require(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "WRONG: %s\n", what);
  std::abort();
}

}  // namespace fa::fuzz
