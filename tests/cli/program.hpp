// Runs the program fa as a user does.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "files.hpp"

namespace fa::test {

struct Ended {
  int code = -1;  ///< exit code; -1 when a signal ended it
  std::string out;
  std::string err;
};

/// `before` are assignments of environment variables. Arguments are separated by blanks.
inline Ended fa(const std::string& arguments, const std::string& before = "") {
  const TemporaryFolder folder;
  const std::string command = before + " '" FA_PROGRAM "' " + arguments + " >" + (folder / "out") +
                              " 2>" + (folder / "err") + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(folder / "out"),
          read_bytes(folder / "err")};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

}  // namespace fa::test
