// The problems that a device is asked for: their features, and sizes that reach the edges of its
// tiles.
#pragma once

#include <cstdint>

#include "check/features.hpp"

namespace fa::check {

struct Offer {
  Features features;  ///< what problems may have; the rest is refused or has no meaning there

  // A problem with tile_edges has more rows and keys than these; a fifth of them exceed them by
  // next_least .. next_most, beyond the next edge.
  int64_t tile_rows, tile_keys;
  int64_t next_rows_least, next_rows_most;
  int64_t next_keys_least, next_keys_most;
  int64_t split_keys;  ///< keys that may be split when queries are few; up to this many times:
  int64_t split_most;
  int64_t small_rows, small_keys;  ///< the most in all other problems

  /// Multiply-adds of one product: keeps a problem at some milliseconds in the reference.
  double work_limit;
  /// The host draws mostly small dims and makes large ones smaller. A device compiles a kernel for
  /// each, so that they belong to the configuration and are never changed.
  bool any_dim;
  /// How far off a score may be in bfloat16 by its softcap, relative to the cap: the device's tanh.
  double capped_error;
  /// A sequence alone has the very bits that it has in a batch, batch_invariant or not.
  bool same_bits_alone;
  /// Numbers are sometimes subnormal, all the same, or large as sinks.
  bool extremes;
  /// Kernel families of which a caller may name one.
  bool has_families;
  /// The narrowest and the widest head_dim of a device; 0: as its kernels have them.
  int64_t least_dim, most_dim;
  /// What the backward pass of family sm90 is asked for where it is named; or null.
  const Offer* sm90;
  /// The same for a head_dim beyond 128; or null.
  const Offer* sm90_wide;
};

/// The host's backend.
extern const Offer cpu_offer;
/// CUDA's. What is not in its features is refused by the plan.
extern const Offer cuda_offer;
/// The same of a device that has family sm90.
extern const Offer hopper_offer;

}  // namespace fa::check
