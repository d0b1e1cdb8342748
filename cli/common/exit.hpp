// Exit codes of the commands, and the error of wrong usage.
#pragma once

#include <stdexcept>
#include <string>

namespace fa::cli {

inline constexpr int exit_right = 0;
inline constexpr int exit_wrong_result = 1;
inline constexpr int exit_wrong_usage = 2;  ///< flags, files or tensors that cannot be worked on

/// Flags that do not fit together; what() says which.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace fa::cli
