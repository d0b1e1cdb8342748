// Tensor cores by warp groups (wgmma.mma_async, PTX ISA 9.7.15): D[64 x N] += A[64 x 16] B[16 x N],
// 16-bit elements, float32 sums, N = 8 * tiles from 8 to 256. All 128 threads of a warp group call
// each of these, in the same order, with the same descriptors.
//
// As with mma.sync, lane l = 4 g + t of warp w (0 to 3 in the group) has in d[i][0] and d[i][1] row
// 16 w + g of D, columns 8 i + 2 t and 8 i + 2 t + 1; in d[i][2] and d[i][3] row 16 w + g + 8.
//
// A product is asynchronous: between `wgmma` and `wgmma_wait` no thread reads or writes its d, or
// an A in registers, and no thread overwrites its shared memory.
#pragma once

#include "common/descriptor.h"
#include "common/number.h"

namespace fa::ptx {

using u32 = unsigned;
using u64 = unsigned long long;

/// Keeps the compiler from moving what is done with `d` over a fence or a wait.
template <int tiles>
__device__ inline void hold_registers(float (&d)[tiles][4]) {
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(d[i][e])::"memory");
  }
}

/// Before the first product, and before each that takes registers, of `d` or of an A, which the
/// thread has read or written since the products before.
template <int... tiles>
__device__ inline void wgmma_fence(float (&... d)[tiles][4]) {
  (hold_registers(d), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// Closes the warp's group of products.
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most `pending` of the warp's groups are under way. `d`: the sums that are done
/// then and that the thread reads next.
template <int pending, int... tiles>
__device__ inline void wgmma_wait(float (&... d)[tiles][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
  (hold_registers(d), ...);
}

// clang-format off
// Registers of D: their names in the text, and the operands.
#define FA_WGMMA_NAMES_1 "%0,%1,%2,%3"
#define FA_WGMMA_NAMES_2 FA_WGMMA_NAMES_1 ",%4,%5,%6,%7"
#define FA_WGMMA_NAMES_3 FA_WGMMA_NAMES_2 ",%8,%9,%10,%11"
#define FA_WGMMA_NAMES_4 FA_WGMMA_NAMES_3 ",%12,%13,%14,%15"
#define FA_WGMMA_NAMES_5 FA_WGMMA_NAMES_4 ",%16,%17,%18,%19"
#define FA_WGMMA_NAMES_6 FA_WGMMA_NAMES_5 ",%20,%21,%22,%23"
#define FA_WGMMA_NAMES_7 FA_WGMMA_NAMES_6 ",%24,%25,%26,%27"
#define FA_WGMMA_NAMES_8 FA_WGMMA_NAMES_7 ",%28,%29,%30,%31"
#define FA_WGMMA_NAMES_9 FA_WGMMA_NAMES_8 ",%32,%33,%34,%35"
#define FA_WGMMA_NAMES_10 FA_WGMMA_NAMES_9 ",%36,%37,%38,%39"
#define FA_WGMMA_NAMES_11 FA_WGMMA_NAMES_10 ",%40,%41,%42,%43"
#define FA_WGMMA_NAMES_12 FA_WGMMA_NAMES_11 ",%44,%45,%46,%47"
#define FA_WGMMA_NAMES_13 FA_WGMMA_NAMES_12 ",%48,%49,%50,%51"
#define FA_WGMMA_NAMES_14 FA_WGMMA_NAMES_13 ",%52,%53,%54,%55"
#define FA_WGMMA_NAMES_15 FA_WGMMA_NAMES_14 ",%56,%57,%58,%59"
#define FA_WGMMA_NAMES_16 FA_WGMMA_NAMES_15 ",%60,%61,%62,%63"
#define FA_WGMMA_NAMES_17 FA_WGMMA_NAMES_16 ",%64,%65,%66,%67"
#define FA_WGMMA_NAMES_18 FA_WGMMA_NAMES_17 ",%68,%69,%70,%71"
#define FA_WGMMA_NAMES_19 FA_WGMMA_NAMES_18 ",%72,%73,%74,%75"
#define FA_WGMMA_NAMES_20 FA_WGMMA_NAMES_19 ",%76,%77,%78,%79"
#define FA_WGMMA_NAMES_21 FA_WGMMA_NAMES_20 ",%80,%81,%82,%83"
#define FA_WGMMA_NAMES_22 FA_WGMMA_NAMES_21 ",%84,%85,%86,%87"
#define FA_WGMMA_NAMES_23 FA_WGMMA_NAMES_22 ",%88,%89,%90,%91"
#define FA_WGMMA_NAMES_24 FA_WGMMA_NAMES_23 ",%92,%93,%94,%95"
#define FA_WGMMA_NAMES_25 FA_WGMMA_NAMES_24 ",%96,%97,%98,%99"
#define FA_WGMMA_NAMES_26 FA_WGMMA_NAMES_25 ",%100,%101,%102,%103"
#define FA_WGMMA_NAMES_27 FA_WGMMA_NAMES_26 ",%104,%105,%106,%107"
#define FA_WGMMA_NAMES_28 FA_WGMMA_NAMES_27 ",%108,%109,%110,%111"
#define FA_WGMMA_NAMES_29 FA_WGMMA_NAMES_28 ",%112,%113,%114,%115"
#define FA_WGMMA_NAMES_30 FA_WGMMA_NAMES_29 ",%116,%117,%118,%119"
#define FA_WGMMA_NAMES_31 FA_WGMMA_NAMES_30 ",%120,%121,%122,%123"
#define FA_WGMMA_NAMES_32 FA_WGMMA_NAMES_31 ",%124,%125,%126,%127"
#define FA_WGMMA_TILE(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FA_WGMMA_SUMS_1 FA_WGMMA_TILE(0)
#define FA_WGMMA_SUMS_2 FA_WGMMA_SUMS_1, FA_WGMMA_TILE(1)
#define FA_WGMMA_SUMS_3 FA_WGMMA_SUMS_2, FA_WGMMA_TILE(2)
#define FA_WGMMA_SUMS_4 FA_WGMMA_SUMS_3, FA_WGMMA_TILE(3)
#define FA_WGMMA_SUMS_5 FA_WGMMA_SUMS_4, FA_WGMMA_TILE(4)
#define FA_WGMMA_SUMS_6 FA_WGMMA_SUMS_5, FA_WGMMA_TILE(5)
#define FA_WGMMA_SUMS_7 FA_WGMMA_SUMS_6, FA_WGMMA_TILE(6)
#define FA_WGMMA_SUMS_8 FA_WGMMA_SUMS_7, FA_WGMMA_TILE(7)
#define FA_WGMMA_SUMS_9 FA_WGMMA_SUMS_8, FA_WGMMA_TILE(8)
#define FA_WGMMA_SUMS_10 FA_WGMMA_SUMS_9, FA_WGMMA_TILE(9)
#define FA_WGMMA_SUMS_11 FA_WGMMA_SUMS_10, FA_WGMMA_TILE(10)
#define FA_WGMMA_SUMS_12 FA_WGMMA_SUMS_11, FA_WGMMA_TILE(11)
#define FA_WGMMA_SUMS_13 FA_WGMMA_SUMS_12, FA_WGMMA_TILE(12)
#define FA_WGMMA_SUMS_14 FA_WGMMA_SUMS_13, FA_WGMMA_TILE(13)
#define FA_WGMMA_SUMS_15 FA_WGMMA_SUMS_14, FA_WGMMA_TILE(14)
#define FA_WGMMA_SUMS_16 FA_WGMMA_SUMS_15, FA_WGMMA_TILE(15)
#define FA_WGMMA_SUMS_17 FA_WGMMA_SUMS_16, FA_WGMMA_TILE(16)
#define FA_WGMMA_SUMS_18 FA_WGMMA_SUMS_17, FA_WGMMA_TILE(17)
#define FA_WGMMA_SUMS_19 FA_WGMMA_SUMS_18, FA_WGMMA_TILE(18)
#define FA_WGMMA_SUMS_20 FA_WGMMA_SUMS_19, FA_WGMMA_TILE(19)
#define FA_WGMMA_SUMS_21 FA_WGMMA_SUMS_20, FA_WGMMA_TILE(20)
#define FA_WGMMA_SUMS_22 FA_WGMMA_SUMS_21, FA_WGMMA_TILE(21)
#define FA_WGMMA_SUMS_23 FA_WGMMA_SUMS_22, FA_WGMMA_TILE(22)
#define FA_WGMMA_SUMS_24 FA_WGMMA_SUMS_23, FA_WGMMA_TILE(23)
#define FA_WGMMA_SUMS_25 FA_WGMMA_SUMS_24, FA_WGMMA_TILE(24)
#define FA_WGMMA_SUMS_26 FA_WGMMA_SUMS_25, FA_WGMMA_TILE(25)
#define FA_WGMMA_SUMS_27 FA_WGMMA_SUMS_26, FA_WGMMA_TILE(26)
#define FA_WGMMA_SUMS_28 FA_WGMMA_SUMS_27, FA_WGMMA_TILE(27)
#define FA_WGMMA_SUMS_29 FA_WGMMA_SUMS_28, FA_WGMMA_TILE(28)
#define FA_WGMMA_SUMS_30 FA_WGMMA_SUMS_29, FA_WGMMA_TILE(29)
#define FA_WGMMA_SUMS_31 FA_WGMMA_SUMS_30, FA_WGMMA_TILE(30)
#define FA_WGMMA_SUMS_32 FA_WGMMA_SUMS_31, FA_WGMMA_TILE(31)

#define FA_WGMMA_TEXT_(x) #x
#define FA_WGMMA_TEXT(x) FA_WGMMA_TEXT_(x)
#define FA_WGMMA_INSTRUCTION(type, tiles, n, operands, add)                                        \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" FA_WGMMA_TEXT(add) ", 0;\n"                            \
  "wgmma.mma_async.sync.aligned.m64n" FA_WGMMA_TEXT(n) "k16.f32." type "." type                    \
  " {" FA_WGMMA_NAMES_##tiles "}, " operands ";\n}"

template <int tiles>
struct Wgmma;

// One shape: N = n = 8 * tiles. r0 is the number of the first operand behind D's registers, r1 that
// of the next, and so on.
#define FA_WGMMA_SHAPE(tiles, n, r0, r1, r2, r3, r4, r5, r6)                                       \
  template <>                                                                                      \
  struct Wgmma<tiles> {                                                                            \
    template <bool bf16, int a_mn, int b_mn>                                                       \
    static __device__ void shared(float (&d)[tiles][4], u64 a, u64 b, int add) {                   \
      if constexpr (bf16) {                                                                        \
        asm volatile(FA_WGMMA_INSTRUCTION("bf16", tiles, n,                                        \
                         "%" #r0 ", %" #r1 ", p, 1, 1, %" #r3 ", %" #r4, r2)                     \
                     : FA_WGMMA_SUMS_##tiles : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));    \
      } else {                                                                                     \
        asm volatile(FA_WGMMA_INSTRUCTION("f16", tiles, n,                                         \
                         "%" #r0 ", %" #r1 ", p, 1, 1, %" #r3 ", %" #r4, r2)                     \
                     : FA_WGMMA_SUMS_##tiles : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));    \
      }                                                                                            \
    }                                                                                              \
    template <bool bf16, int b_mn>                                                                 \
    static __device__ void registers(float (&d)[tiles][4], const u32 (&a)[4], u64 b, int add) {    \
      if constexpr (bf16) {                                                                        \
        asm volatile(FA_WGMMA_INSTRUCTION("bf16", tiles, n, "{%" #r0 ",%" #r1 ",%" #r2 ",%" #r3    \
                         "}, %" #r4 ", p, 1, 1, %" #r6, r5)                                      \
                     : FA_WGMMA_SUMS_##tiles                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));   \
      } else {                                                                                     \
        asm volatile(FA_WGMMA_INSTRUCTION("f16", tiles, n, "{%" #r0 ",%" #r1 ",%" #r2 ",%" #r3     \
                         "}, %" #r4 ", p, 1, 1, %" #r6, r5)                                      \
                     : FA_WGMMA_SUMS_##tiles                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));   \
      }                                                                                            \
    }                                                                                              \
  };
FA_WGMMA_SHAPE(1, 8, 4, 5, 6, 7, 8, 9, 10)
FA_WGMMA_SHAPE(2, 16, 8, 9, 10, 11, 12, 13, 14)
FA_WGMMA_SHAPE(3, 24, 12, 13, 14, 15, 16, 17, 18)
FA_WGMMA_SHAPE(4, 32, 16, 17, 18, 19, 20, 21, 22)
FA_WGMMA_SHAPE(5, 40, 20, 21, 22, 23, 24, 25, 26)
FA_WGMMA_SHAPE(6, 48, 24, 25, 26, 27, 28, 29, 30)
FA_WGMMA_SHAPE(7, 56, 28, 29, 30, 31, 32, 33, 34)
FA_WGMMA_SHAPE(8, 64, 32, 33, 34, 35, 36, 37, 38)
FA_WGMMA_SHAPE(9, 72, 36, 37, 38, 39, 40, 41, 42)
FA_WGMMA_SHAPE(10, 80, 40, 41, 42, 43, 44, 45, 46)
FA_WGMMA_SHAPE(11, 88, 44, 45, 46, 47, 48, 49, 50)
FA_WGMMA_SHAPE(12, 96, 48, 49, 50, 51, 52, 53, 54)
FA_WGMMA_SHAPE(13, 104, 52, 53, 54, 55, 56, 57, 58)
FA_WGMMA_SHAPE(14, 112, 56, 57, 58, 59, 60, 61, 62)
FA_WGMMA_SHAPE(15, 120, 60, 61, 62, 63, 64, 65, 66)
FA_WGMMA_SHAPE(16, 128, 64, 65, 66, 67, 68, 69, 70)
FA_WGMMA_SHAPE(17, 136, 68, 69, 70, 71, 72, 73, 74)
FA_WGMMA_SHAPE(18, 144, 72, 73, 74, 75, 76, 77, 78)
FA_WGMMA_SHAPE(19, 152, 76, 77, 78, 79, 80, 81, 82)
FA_WGMMA_SHAPE(20, 160, 80, 81, 82, 83, 84, 85, 86)
FA_WGMMA_SHAPE(21, 168, 84, 85, 86, 87, 88, 89, 90)
FA_WGMMA_SHAPE(22, 176, 88, 89, 90, 91, 92, 93, 94)
FA_WGMMA_SHAPE(23, 184, 92, 93, 94, 95, 96, 97, 98)
FA_WGMMA_SHAPE(24, 192, 96, 97, 98, 99, 100, 101, 102)
FA_WGMMA_SHAPE(25, 200, 100, 101, 102, 103, 104, 105, 106)
FA_WGMMA_SHAPE(26, 208, 104, 105, 106, 107, 108, 109, 110)
FA_WGMMA_SHAPE(27, 216, 108, 109, 110, 111, 112, 113, 114)
FA_WGMMA_SHAPE(28, 224, 112, 113, 114, 115, 116, 117, 118)
FA_WGMMA_SHAPE(29, 232, 116, 117, 118, 119, 120, 121, 122)
FA_WGMMA_SHAPE(30, 240, 120, 121, 122, 123, 124, 125, 126)
FA_WGMMA_SHAPE(31, 248, 124, 125, 126, 127, 128, 129, 130)
FA_WGMMA_SHAPE(32, 256, 128, 129, 130, 131, 132, 133, 134)
// clang-format on

/// D += A B, or D = A B where not `add`: both operands in shared memory, by their descriptors
/// (common/descriptor.h).
template <kernel::Number number, kernel::Major a_major, kernel::Major b_major, int tiles>
__device__ inline void wgmma(float (&d)[tiles][4], u64 a, u64 b, bool add) {
  constexpr bool bf16 = number == kernel::Number::bfloat16;
  static_assert(bf16 || number == kernel::Number::float16);
  Wgmma<tiles>::template shared<bf16, static_cast<int>(a_major), static_cast<int>(b_major)>(d, a, b,
                                                                                            add);
}

/// A product with A in registers: a[0] has A[16 w + g][2 t, + 1], a[1] row 16 w + g + 8, a[2] and
/// a[3] the same rows of columns 2 t + 8, + 9; the first column is in the lower half.
template <kernel::Number number, kernel::Major b_major, int tiles>
__device__ inline void wgmma(float (&d)[tiles][4], const u32 (&a)[4], u64 b, bool add) {
  constexpr bool bf16 = number == kernel::Number::bfloat16;
  static_assert(bf16 || number == kernel::Number::float16);
  Wgmma<tiles>::template registers<bf16, static_cast<int>(b_major)>(d, a, b, add);
}

}  // namespace fa::ptx
