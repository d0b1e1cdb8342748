// The order in which the tiles of a launch are taken, on host and device. Blocks take the tiles by
// their numbers, be it that each block has one, that blocks which stay take each n-th, or that they
// claim them from a counter (TileCounter).
#pragma once

#include "common/divisor.h"

namespace fa::kernel {

/// Heads come in sections, whose K and V stay in L2 together. Within a section the tiles of all
/// heads alternate, the longest first. Do not reorder the fields, nor move an Order among the
/// parameters: the compiler loads two numbers that share 8 bytes at once, and with another order a
/// forward kernel of 255 registers spilled 48 bytes instead of none.
struct Order {
  int batch;              ///< sequences of the problem
  Divisor heads;          ///< of a sequence, or parts of heads
  int first_sequence;     ///< of a launch that takes one sequence, or one head of keys, of all
  Divisor tiles;          ///< of a head, all packed sequences together
  Divisor section;        ///< heads whose tiles alternate
  Divisor section_tiles;  ///< of a section: section * tiles
  int first_head;         ///< as first_sequence
};

/// Which tiles start first: those that are the longest under a causal mask, so that short ones fill
/// the end. The last rows see the most keys, the first keys are seen by the most rows.
enum class Longest { last, first };

/// A tile of a batch of equal sequences. Heads are counted through all sequences.
struct OrderedTile {
  int head;
  int tile;  ///< of the head
};

/// Tile number `index` of the launch. The last section may have fewer heads.
constexpr OrderedTile ordered_tile(const Order& order, int index, Longest longest) {
  const int section = index / order.section_tiles;
  const int rest = index - section * order.section_tiles.value;
  const int first = section * order.section.value;
  const int left = order.batch * order.heads.value - first;
  const bool whole = left >= order.section.value;
  const int turn = whole ? rest / order.section : rest / left;
  const int head = first + rest - turn * (whole ? order.section.value : left);
  return {head, longest == Longest::first ? turn : order.tiles.value - 1 - turn};
}

}  // namespace fa::kernel
