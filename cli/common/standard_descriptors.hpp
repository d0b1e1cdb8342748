// stdin, stdout and stderr, which whoever starts the program may have closed.
#pragma once

namespace fa::cli {

/// Takes those that are closed, so that no file of the program's gets their number and then what is
/// printed. They still cannot be read or written: what uses them fails with EBADF.
void take_closed_descriptors();

}  // namespace fa::cli
