// stdin, stdout and stderr, which the caller of the program may have closed.
#pragma once

namespace fa::cli {

/// Opens /dev/null in place of closed ones. Otherwise a file that the program opens would get the
/// number of stdout, and with it all printed text. Reading or writing them still fails with EBADF.
void take_closed_descriptors();

}  // namespace fa::cli
