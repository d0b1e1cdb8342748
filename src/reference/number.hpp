// Numbers as tensors store them: float32, float16, bfloat16 and int32, to and from float64.
#pragma once

#include "fa/attention.hpp"

namespace fa::reference {

/// The element of type `dtype` (a float type or int32) at `p`, which need not be aligned.
double load(DType dtype, const void* p);

/// Writes `value` as `dtype` (a float type), rounded to nearest, ties to even.
void store(DType dtype, void* p, double value);

/// The nearest number that `dtype` (a float type) holds, ties to even; too large becomes infinite.
float rounded(DType dtype, float x);

/// The distance from 1 to the next number of a float type: 2^-23, 2^-10 or 2^-7.
double epsilon(DType dtype);

/// 2^-126, 2^-14 in float16: below it the distance to the next number no longer shrinks.
double smallest_normal(DType dtype);

}  // namespace fa::reference
