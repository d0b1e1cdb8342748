#include "support/io/printed.hpp"

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace fa::io {

void flush_printed() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  throw std::system_error(errno, std::generic_category(), "stdout");
}

}  // namespace fa::io
