// The signals by which a user or the system ends the program, while it writes files.
#pragma once

namespace fa::io {

/// While one lives, such a signal waits. When the last one is gone, its file is whole or removed,
/// and the signal acts as it did before. For one thread at a time.
class HeldSignals {
 public:
  HeldSignals();
  HeldSignals(const HeldSignals& /*other*/) : HeldSignals() {}
  HeldSignals& operator=(const HeldSignals&) = default;
  ~HeldSignals();

  /// True when a signal waits: a long write should then be given up.
  static bool any();
};

}  // namespace fa::io
