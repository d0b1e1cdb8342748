// Flushes stdout before files take their names.
#pragma once

namespace fa::io {

/// Throws std::system_error, with stdout's error set, unless all printed text has left the program.
/// Callers then write no file.
void flush_printed();

}  // namespace fa::io
