#include "support/io/held_signals.hpp"

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>

namespace fa::io {
namespace {

constexpr std::array ending{SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGXCPU};

int holders = 0;
std::array<struct sigaction, ending.size()> before;
std::atomic<int> waiting;
static_assert(std::atomic<int>::is_always_lock_free, "a handler may take no lock");

}  // namespace

HeldSignals::HeldSignals() {
  if (holders++ > 0) return;
  struct sigaction hold{};
  hold.sa_handler = [](int signal) { waiting = signal; };  // a full pipe's write() then returns
  for (size_t i = 0; i < ending.size(); ++i) {
    sigaction(ending[i], nullptr, &before[i]);
    if (before[i].sa_handler != SIG_IGN) sigaction(ending[i], &hold, nullptr);
  }
}

HeldSignals::~HeldSignals() {
  if (--holders > 0) return;
  for (size_t i = 0; i < ending.size(); ++i) sigaction(ending[i], &before[i], nullptr);
  if (const int signal = waiting.exchange(0); signal != 0) raise(signal);
}

bool HeldSignals::any() { return waiting != 0; }

}  // namespace fa::io
