#include "support/commit.hpp"

namespace fa::support {

const char* const commit = FA_COMMIT;

}  // namespace fa::support
