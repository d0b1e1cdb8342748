#pragma once
#include "common/tensor_map.h"
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;
using Way = emulator::BulkCopy::Way;

inline void prefetch_map(const kernel::TensorMap*) {}

template <int rank>
void tensor_load(u32 shared, const kernel::TensorMap* map, const int (&at)[rank], u32 barrier) {
  emulator::runtime->bulk_copy(
      {.way = Way::load, .shared = shared, .barrier = barrier, .map = map, .at = at, .rank = rank});
}
template <int rank>
void tensor_store(const kernel::TensorMap* map, const int (&at)[rank], u32 shared) {
  emulator::runtime->bulk_copy(
      {.way = Way::store, .shared = shared, .map = map, .at = at, .rank = rank});
}
template <int rank>
void tensor_add(const kernel::TensorMap* map, const int (&at)[rank], u32 shared) {
  emulator::runtime->bulk_copy(
      {.way = Way::add, .shared = shared, .map = map, .at = at, .rank = rank});
}

}  // namespace fa::ptx
