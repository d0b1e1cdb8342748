// Which commit a program was built from.
#pragma once

namespace fa::support {

/// The first 12 digits of the commit's hash; "unknown" outside of a git checkout.
extern const char* const commit;

}  // namespace fa::support
