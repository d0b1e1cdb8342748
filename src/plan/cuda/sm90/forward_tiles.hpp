// Tiles of the sm90 forward kernel.
#pragma once

#include <optional>

#include "plan/cuda/gpu.hpp"
#include "problem/problem.hpp"

namespace fa::sm90 {

/// How src/kernels/sm90/forward.cuh is cut.
struct ForwardTile {
  int groups = 2;        ///< of four warps that compute, with 64 query rows each: 1 to 3
  int heads = 1;         ///< query heads whose rows a tile holds: 1, or all that share keys
  int keys = 128;        ///< of a step, a multiple of 16
  int key_stages = 2;    ///< steps whose K lies in shared memory, 1 or more
  int value_stages = 2;  ///< steps whose V does, 1 or more
  int query_stages = 1;  ///< tiles whose Q does: 1 or 2
  int bias_stages = 0;   ///< steps whose bias does; 0: each thread reads it from memory
  /// Of a thread of the group that loads: 24, 40, 56; 32, 56 beside 3 groups, any beside one.
  int loader_registers = 24;
  bool turns = true;        ///< the groups take turns at the tensor cores: 2 or 3 can
  bool staged_out = false;  ///< O goes to memory by way of shared memory, by the copy engine
  bool claims = false;      ///< a counter hands tiles out, which are of unequal length
  int steps_ahead = 0;      ///< steps of a tile yet to come when the next one is found
  bool shares = false;      ///< blocks get equal shares of all tiles' steps

  int rows() const { return 64 * groups; }
  int positions() const { return rows() / heads; }  ///< rows of each head
  int threads() const { return 128 * (1 + groups); }
  /// Registers of a thread that computes: setmaxnreg shares those of the whole block out.
  int group_registers() const {
    if (groups == 1) return 240;  // a thread can name 255
    return ((groups == 3 ? 4 * 128 : 3 * 168) - loader_registers) / groups;
  }
  friend bool operator==(const ForwardTile&, const ForwardTile&) = default;
};

/// Rows of the bias's tile in shared memory, of which the copy engine brings one where all rows
/// share them; the tile in panels has 8 or more.
int bias_rows(const ForwardTile& tile, const Problem& problem);
int shared_bytes(const ForwardTile& tile, const Problem& problem);

/// The tile for a problem of the head_dims that the kernel serves, 64 to 256: that of
/// forward_tile_table.hpp, with room for a bias, or with the heads that share keys; or one for few
/// rows.
ForwardTile forward_tile(const Problem& problem);

}  // namespace fa::sm90
