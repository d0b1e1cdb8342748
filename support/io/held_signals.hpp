// The signals by which a user or the system ends the program, while it writes files.
#pragma once

namespace fa::io {

/// While one lives, such a signal waits; when the last one is gone, with its file whole or removed,
/// the signal does what it did before. For one thread at a time.
class HeldSignals {
 public:
  HeldSignals();
  HeldSignals(const HeldSignals& /*other*/) : HeldSignals() {}
  HeldSignals& operator=(const HeldSignals&) = default;
  ~HeldSignals();

  /// Whether one waits, so that a long write is to be given up.
  static bool any();
};

}  // namespace fa::io
