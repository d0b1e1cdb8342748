// bfloat16 multiplied by tile registers: AMX, in Intel's CPUs since Sapphire Rapids. A tile
// register has 16 rows of 64 bytes. One instruction adds the product of 16 x 32 and 32 x 16 numbers
// to 16 x 16 sums in float32, 16 times the rate of float32 multiply-adds in vectors. B is pairs as
// in pairs-inl.hpp; A's pairs lie row by row.
//
// A part of C, 32 x 32, is four tiles of sums. For each 32 of the depth it takes two tiles of A and
// two of B: four loads of 8 cycles beside four products of 16 cycles.
#if defined(FA_CPU_AMX_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_AMX_INL
#undef FA_CPU_AMX_INL
#else
#define FA_CPU_AMX_INL
#endif

#include <cstdint>
#include <cstring>

#include "cpu/gemm-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if FA_CPU_HAS_PAIRS
/// Fills the depth of a product with 0: the rows of pairs behind those of `numbers`, up to a whole
/// tile.
HWY_ATTR inline void clear_to_tile(int64_t numbers, Pair* rows, int64_t stride) {
  const int64_t begin = ceil_div(numbers, 2);
  std::memset(rows + begin * stride, 0, (in_tiles(numbers) / 2 - begin) * stride * sizeof(Pair));
}

/// Eight tiles of 16 rows of 64 bytes, as ldtilecfg takes it.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileShapes tile_shapes;

/// A thread's tile registers, shaped while this lives.
class TileRegisters {
 public:
  TileRegisters() { asm volatile("ldtilecfg %0" : : "m"(tile_shapes)); }
  ~TileRegisters() { asm volatile("tilerelease"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// By their names, as in pairs-inl.hpp. Tiles 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B.
template <int tile>
HWY_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
template <int tile, typename T>
HWY_INLINE void load_tile(const T* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride * 4), "i"(tile)
               : "memory");
}
template <int tile>
HWY_INLINE void store_tile(float* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride * 4), "i"(tile) : "memory");
}
template <int sum, int a, int b>
HWY_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b));
}

/// C = A B, or C += A B, in parts of 32 x 32. Rows, columns and depth (in numbers) are rounded up
/// to 32; beyond the depth A and B must be 0. `wanted` has groups of 32 rows, and its firsts are
/// multiples of 32. a: [m][a_stride] words. C's rows from m on are written as well: if they belong
/// to others, A's rows there must be 0.
HWY_ATTR inline void tile_product(int64_t m, int64_t n, int64_t depth, const Pair* a,
                                  int64_t a_stride, const Pair* b, int64_t b_stride, float* c,
                                  int64_t c_stride, Accumulate::Mode mode, Wanted wanted) {
  constexpr int64_t half = tile_span / 2;
  for (int64_t j = 0; j < n; j += tile_span) {
    for (int64_t i = 0; i < m; i += tile_span) {
      const int64_t group = i / tile_span;
      if (wanted.columns != nullptr && wanted.columns[group] <= j) continue;
      float* sums = c + i * c_stride + j;
      if (mode == Accumulate::add) {
        load_tile<0>(sums, c_stride);
        load_tile<1>(sums + half, c_stride);
        load_tile<2>(sums + half * c_stride, c_stride);
        load_tile<3>(sums + half * c_stride + half, c_stride);
      } else {
        clear_tile<0>();
        clear_tile<1>();
        clear_tile<2>();
        clear_tile<3>();
      }
      const int64_t words = in_tiles(wanted.depth != nullptr ? wanted.depth[group] : depth) / 2;
      const int64_t first = wanted.first != nullptr ? wanted.first[group] / 2 : 0;
      for (int64_t k = first; k < words; k += half) {
        load_tile<4>(a + i * a_stride + k, a_stride);
        load_tile<6>(b + k * b_stride + j, b_stride);
        multiply_tiles<0, 4, 6>();
        load_tile<7>(b + k * b_stride + j + half, b_stride);
        multiply_tiles<1, 4, 7>();
        load_tile<5>(a + (i + half) * a_stride + k, a_stride);
        multiply_tiles<2, 5, 6>();
        multiply_tiles<3, 5, 7>();
      }
      store_tile<0>(sums, c_stride);
      store_tile<1>(sums + half, c_stride);
      store_tile<2>(sums + half * c_stride, c_stride);
      store_tile<3>(sums + half * c_stride + half, c_stride);
    }
  }
}
#endif

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
