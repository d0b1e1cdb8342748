// Runs the program fa as a user does.
#pragma once

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "files.hpp"

namespace fa::test {

struct Ended {
  int code = -1;  ///< exit code; -1 when a signal ended it
  std::string out;
  std::string err;
};

enum class Streams : uint8_t { apart, together };

/// `before` are assignments of environment variables. Arguments are separated by blanks. Streams
/// that go together are in `out`.
inline Ended fa(const std::string& arguments, const std::string& before = "",
                Streams streams = Streams::apart) {
  const TemporaryFolder folder;
  const std::string err = streams == Streams::together ? "&1" : folder / "err";
  const std::string command = before + " '" FA_PROGRAM "' " + arguments + " >" + (folder / "out") +
                              " 2>" + err + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(folder / "out"),
          read_bytes(folder / "err")};
}

/// Runs fa on a terminal of 200 columns, which shows stdout and stderr. `out` has all bytes that
/// the terminal gets. The code is -2 where there is no terminal (no /dev/pts).
inline Ended fa_on_terminal(const std::string& arguments, const std::string& before = "") {
  winsize size{};
  size.ws_row = 50;
  size.ws_col = 200;
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child < 0) return {-2, "", ""};
  if (child == 0) {
    const std::string command = before + " exec '" FA_PROGRAM "' " + arguments;
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  Ended ended;
  std::array<char, 4096> buffer{};
  for (;;) {  // an error is the terminal's end
    const ssize_t count = ::read(terminal, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    ended.out.append(buffer.data(), static_cast<size_t>(count));
  }
  int status = 0;
  waitpid(child, &status, 0);
  ::close(terminal);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ended;
}

/// What a terminal shows at the end, where "\r" goes back to the line's begin.
inline std::string shown(const std::string& bytes) {
  std::string screen, line;
  size_t column = 0;
  for (const char c : bytes) {
    if (c == '\n') {
      screen += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
      line.clear();
      column = 0;
    } else if (c == '\r') {
      column = 0;
    } else {
      line.resize(std::max(line.size(), column + 1), ' ');
      line[column++] = c;
    }
  }
  return screen + line;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

}  // namespace fa::test
