// Rows of tensors in and out: widened to float32, rounded to nearest even, transposed.
#if defined(FA_CPU_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_ROWS_INL
#undef FA_CPU_ROWS_INL
#else
#define FA_CPU_ROWS_INL
#endif

#include <cstdint>
#include <cstring>

#include "cpu/number.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Head dims are multiples of 8, and at most this.
inline constexpr int64_t longest_row = 576;
alignas(64) inline constexpr char row_of_0[longest_row * sizeof(float)] = {};  ///< for no row
using D8 = hn::CappedTag<float, 8>;
using Floats = hn::CappedTag<float, lane_pad>;

/// Eight or fewer float16 numbers, in the low half of each lane: exact.
template <class DI>
HWY_INLINE hn::Vec<hn::Rebind<float, DI>> widen_f16(DI di, hn::Vec<DI> h) {
  const hn::Rebind<float, DI> df;
  const auto sign = hn::ShiftLeft<16>(hn::And(h, hn::Set(di, 0x8000)));
  const auto magnitude = hn::And(h, hn::Set(di, 0x7FFF));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto normal = hn::Add(shifted, hn::Set(di, 112 << 23));
  // Subnormal: an integer times 2^-24, exact and free of subnormal float32 numbers.
  const auto small = hn::BitCast(di, hn::Mul(hn::ConvertTo(df, magnitude), hn::Set(df, 0x1p-24f)));
  const auto special = hn::Or(shifted, hn::Set(di, 0x7F800000));
  auto bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 0x0400)), small, normal);
  bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x7BFF)), special, bits);
  return hn::BitCast(df, hn::Or(bits, sign));
}

/// float32 to float16 bits, to nearest even.
template <class DI>
HWY_INLINE hn::Vec<DI> narrow_f16(DI di, hn::Vec<DI> x) {
  const hn::Rebind<float, DI> df;
  const auto magnitude = hn::And(x, hn::Set(di, 0x7FFFFFFF));
  const auto sign = hn::And(hn::ShiftRight<16>(x), hn::Set(di, 0x8000));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(di, 1));
  const auto normal =
      hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, odd), hn::Set(di, 0xFFF - (112 << 23))));
  // Adding 0.5 puts float16's subnormal step, 2^-24, at the last bit: the addition rounds.
  const auto half = hn::Set(df, 0.5f);
  const auto small =
      hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(df, magnitude), half)), hn::BitCast(di, half));
  auto bits = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 0x38800000)), small, normal);
  bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x477FEFFF)), hn::Set(di, 0x7C00), bits);
  bits = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x7F800000)), hn::Set(di, 0x7E00), bits);
  return hn::Or(bits, sign);
}

/// float32 to bfloat16 bits, to nearest even.
template <class DI>
HWY_INLINE hn::Vec<DI> narrow_bf16(DI di, hn::Vec<DI> x) {
  const hn::Rebind<uint32_t, DI> du;
  const auto top = hn::ShiftRight<16>(hn::BitCast(du, x));
  const auto odd = hn::And(top, hn::Set(du, 1));
  const auto rounded =
      hn::ShiftRight<16>(hn::Add(hn::Add(hn::BitCast(du, x), odd), hn::Set(du, 0x7FFF)));
  const auto magnitude = hn::And(x, hn::Set(di, 0x7FFFFFFF));
  const auto nan = hn::Gt(magnitude, hn::Set(di, 0x7F800000));
  return hn::IfThenElse(nan, hn::BitCast(di, hn::Or(top, hn::Set(du, 0x40))),
                        hn::BitCast(di, rounded));
}

/// A vector of numbers, widened: exact.
template <class D>
HWY_INLINE hn::Vec<D> load_wide(D d, const float* in) {
  return hn::LoadU(d, in);
}
template <class D>
HWY_INLINE hn::Vec<D> load_wide(D d, const hwy::bfloat16_t* in) {
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint16_t, D> bits;
  const auto x = hn::LoadU(bits, reinterpret_cast<const uint16_t*>(in));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(di, x)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_wide([[maybe_unused]] D d, const hwy::float16_t* in) {
#if HWY_TARGET <= HWY_AVX2
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), in));
#else  // Highway 1.0.3 emulates it without infinity and NaN
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint16_t, D> bits;
  const auto x = hn::LoadU(bits, reinterpret_cast<const uint16_t*>(in));
  return widen_f16(di, hn::PromoteTo(di, x));
#endif
}

/// use(T()) with the C++ type of a dtype.
template <class Use>
HWY_INLINE void with_type(DType dtype, const Use& use) {
  if (dtype == float32) {
    use(float());
  } else if (dtype == float16) {
    use(hwy::float16_t());
  } else {
    use(hwy::bfloat16_t());
  }
}

/// out[0, n) = scale * source; out[n, padded(n)) = 0.
HWY_ATTR HWY_INLINE void load_row(DType dtype, const char* source, int64_t n, float scale,
                                  float* out) {
  const D8 d;
  const auto factor = hn::Set(d, scale);
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  with_type(dtype, [&]<typename T>(T) {
    const auto* in = reinterpret_cast<const T*>(source);
    for (; i + step <= n; i += step) {
      hn::Store(hn::Mul(load_wide(d, in + i), factor), d, out + i);
    }
  });
  for (; i < n; ++i) out[i] = scale * load_number(dtype, source, i);
  for (; i < padded(n); ++i) out[i] = 0;
}

/// How a row is stored. Past the caches, its lines are not read before they are written; another
/// thread finds them in memory only, and on x86 only after hwy::FlushStream.
enum class Store : uint8_t { as_usual, past_caches };

/// target[0, n) = scale * source, rounded to dtype. Past the caches only whole cache lines go.
HWY_ATTR HWY_INLINE void store_row(DType dtype, const float* source, int64_t n, float scale,
                                   char* target, Store way = Store::as_usual) {
  const D8 d;
  const hn::Rebind<int32_t, D8> di;
  const hn::Rebind<uint16_t, D8> du16;
  const auto factor = hn::Set(d, scale);
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  const bool lines = (reinterpret_cast<uintptr_t>(target) | n * bytes_of(dtype)) % 64 == 0;
  // With vectors of four lanes, 16-bit numbers fill half a vector, and Highway's Stream would store
  // a whole one.
  const bool stream = way == Store::past_caches && lines && hn::MaxLanes(d) == 8;
  const auto put = [&](auto x, auto tag, auto* to) HWY_ATTR {
    if (stream) {
      hn::Stream(x, tag, to);
    } else {
      hn::StoreU(x, tag, to);
    }
  };
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    const auto x = hn::Mul(hn::LoadU(d, source + i), factor);
    if (dtype == float32) {
      put(x, d, reinterpret_cast<float*>(target) + i);
    } else {
      const auto bits = hn::BitCast(di, x);
      const auto rounded = dtype == float16 ? narrow_f16(di, bits) : narrow_bf16(di, bits);
      put(hn::DemoteTo(du16, rounded), du16, reinterpret_cast<uint16_t*>(target) + i);
    }
  }
  for (; i < n; ++i) store_number(dtype, scale * source[i], target, i);
}

/// The transposes of 4 x 4 numbers in each 128-bit part of four rows.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void transpose_parts(D d, V a, V b, V c, V e, V* out) {
  const hn::Repartition<double, D> pairs;
  const auto low_ab = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));  // a0 b0 a1 b1
  const auto low_ce = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto high_ab = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));  // a2 b2 a3 b3
  const auto high_ce = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  out[0] = hn::BitCast(d, hn::InterleaveLower(pairs, low_ab, low_ce));
  out[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, low_ab, low_ce));
  out[2] = hn::BitCast(d, hn::InterleaveLower(pairs, high_ab, high_ce));
  out[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, high_ab, high_ce));
}

/// As many columns as a vector has lanes, of as many rows: out[x * stride + r] = load(r)'s lane x.
template <class Load>
HWY_INLINE void transpose_square(const Load& load, float* out, int64_t stride) {
  const D8 d;
  using V = hn::Vec<D8>;
  V upper[4];  // rows 0 to 3
  transpose_parts(d, load(0), load(1), load(2), load(3), upper);
  if constexpr (hn::MaxLanes(D8()) == 4) {
    for (int x = 0; x < 4; ++x) hn::Store(upper[x], d, out + x * stride);
  } else {
    V lower[4];
    transpose_parts(d, load(4), load(5), load(6), load(7), lower);
    for (int x = 0; x < 4; ++x) {
      hn::Store(hn::ConcatLowerLower(d, lower[x], upper[x]), d, out + x * stride);
      hn::Store(hn::ConcatUpperUpper(d, lower[x], upper[x]), d, out + (4 + x) * stride);
    }
  }
}

/// out[c * stride + r] = element c of row r, for r < padded(rows); 0 beyond `rows`. load(row, c)
/// has those of a D8 vector. Eight rows at a time: more of them, a page apart, overflow their set
/// of L1.
template <typename T, class RowAt, class Load>
HWY_ATTR HWY_INLINE void transpose_rows(const RowAt& row_at, int64_t rows, int64_t width,
                                        const Load& load, float* out, int64_t stride) {
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(D8()));
  for (int64_t r0 = 0; r0 < padded(rows); r0 += lanes) {
    const T* row[lanes];
    for (int64_t r = 0; r < lanes; ++r) {
      row[r] = reinterpret_cast<const T*>(r0 + r < rows ? row_at(r0 + r) : row_of_0);
    }
    for (int64_t c = 0; c < width; c += lanes) {
      transpose_square([&](int64_t r) { return load(row[r], c); }, out + c * stride + r0, stride);
    }
  }
}

/// Loads the transposed rows, times `scale`. `width` is a multiple of 8.
template <class RowAt>
HWY_ATTR void load_transposed(DType dtype, const RowAt& row_at, int64_t rows, int64_t width,
                              float scale, float* out, int64_t stride) {
  const D8 d;
  const auto factor = hn::Set(d, scale);
  with_type(dtype, [&]<typename T>(T) {
    const auto load = [&](const T* row, int64_t c) {
      return hn::Mul(load_wide(d, row + c), factor);
    };
    transpose_rows<T>(row_at, rows, width, load, out, stride);
  });
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
