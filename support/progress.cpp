#include "support/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace fa::support {
namespace {

/// True for a terminal that can return to the start of its line. TERM=dumb names one that cannot.
bool can_overwrite() {
  const char* kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
}

size_t terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string time_left(double elapsed, double share) {
  if (share <= 0 || elapsed < 1) return "";
  const int64_t seconds = std::llround(elapsed / share - elapsed);
  return fmt::format("{}:{:02} left", seconds / 60, seconds % 60);
}

}  // namespace

Progress::Progress(int64_t total)
    : total_(std::max<int64_t>(total, 1)), terminal_(can_overwrite()) {
  std::fflush(stdout);
}

Progress::~Progress() { wipe(); }

void Progress::wipe() {
  if (drawn_ > 0) fmt::print(stderr, "\r{:{}}\r", "", drawn_);
  drawn_ = 0;
}

void Progress::show(int64_t done, const std::string& what) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (what.empty() && now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  constexpr int64_t width = 24;
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const auto filled = static_cast<size_t>(std::clamp<int64_t>(done * width / total_, 0, width));
  const std::chrono::duration<double> elapsed = now - started_;
  std::string line = fmt::format("[{}{}] {:3.0f}% {} {}", std::string(filled, '#'),
                                 std::string(width - filled, '.'), 100 * share,
                                 time_left(elapsed.count(), share), what);
  line.resize(std::min(line.size(), terminal_columns() - 1));
  wipe();
  fmt::print(stderr, "{}", line);
  drawn_ = line.size();
}

}  // namespace fa::support
