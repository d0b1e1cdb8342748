// A progress bar on the terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fa::support {

/// One line of stderr that tells how far a command is. It is shown only on a terminal that can
/// overwrite a line, and needs no escape codes. The destructor wipes it: it must run before results
/// are printed.
class Progress {
 public:
  explicit Progress(int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total`, and what is being worked on.
  void show(int64_t done, const std::string& what = "");

 private:
  using Clock = std::chrono::steady_clock;
  void wipe();

  int64_t total_;
  bool terminal_;
  size_t drawn_ = 0;  ///< columns that are in use
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace fa::support
