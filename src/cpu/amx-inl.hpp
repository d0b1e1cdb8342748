// bfloat16 multiplied by whole tiles: AMX, of Intel's since Sapphire Rapids. A tile register has 16
// rows of 64 bytes; one instruction adds the product of 16 x 32 and 32 x 16 numbers to 16 x 16 sums
// in float32, 16 times what the vectors' multiply-adds of float32 do in the time. Pairs
// as in pairs-inl.hpp, but A's lie row by row.
//
// Four sums of C, 32 x 32, want two tiles of A and two of B for each 32 of the depth: four loads of
// 8 cycles beside four products of 16.
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
#include "cpu/target.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Whether a problem's packed keys are multiplied by tiles.
inline bool by_tiles([[maybe_unused]] const Problem& p) {
#if FA_CPU_HAS_PAIRS
  return p.dtype == bfloat16 && multiplies_tiles() && scale_fits_pairs(p) &&
         p.head_dim % tile_span == 0 && p.head_dim_v % tile_span == 0;
#else
  return false;
#endif
}

/// Whether they are packed as pairs, for vectors or for tiles.
inline bool packs_pairs(const Problem& p) { return in_pairs(p) || by_tiles(p); }

/// Rows from those of `numbers` on up to a whole tile, of pairs: 0, which the depth is filled with.
HWY_ATTR inline void clear_to_tile(int64_t numbers, Pair* rows, int64_t stride) {
  const int64_t begin = ceil_div(numbers, 2);
  std::memset(rows + begin * stride, 0, (in_tiles(numbers) / 2 - begin) * stride * sizeof(Pair));
}

#if FA_CPU_HAS_PAIRS
/// Eight tiles of 16 rows of 64 bytes, as ldtilecfg takes it.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileShapes tile_shapes;

/// A thread's tile registers, shaped while this lives, if they are wanted.
class TileRegisters {
 public:
  explicit TileRegisters(bool wanted) : wanted_(wanted) {
    if (wanted_) asm volatile("ldtilecfg %0" : : "m"(tile_shapes));
  }
  ~TileRegisters() {
    if (wanted_) asm volatile("tilerelease");
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  const bool wanted_;
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

/// C = A B, or C += A B, in parts of 32 x 32: rows, columns and depth, which counts numbers, are
/// rounded up to that, and what A and B have there beyond the depth must be 0. `wanted` is by
/// groups of 32 rows, its firsts are multiples of 32. a: [m][a_stride] words. C's rows from m on
/// are written as well: where they are another's, the caller has A's rows there 0.
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
