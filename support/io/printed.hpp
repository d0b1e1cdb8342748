// What is printed, before files take their names.
#pragma once

namespace fa::io {

/// Throws std::system_error, stdout's error set, unless all that was printed has left the program:
/// on an error nothing is written.
void flush_printed();

}  // namespace fa::io
