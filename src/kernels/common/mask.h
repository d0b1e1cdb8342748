// Which keys a row sees: causal and window masks, aligned to the bottom right.
#pragma once

namespace fa::mask {

/// Keys [begin, end) of one row; begin >= end: none.
struct KeyRange {
  long long begin;
  long long end;
};

/// Row i of a sequence with q_len rows and k_len keys. Its diagonal key is i + k_len - q_len; a
/// negative side of the window is unbounded; causal is right = 0. Both ends never fall as i grows.
constexpr KeyRange key_range(long long i, long long q_len, long long k_len, long long left,
                             long long right) {
  // mutant "bottom-right alignment": k_len - q_len => 0
  const long long diagonal = i + k_len - q_len;
  const long long begin = left < 0 || diagonal <= left ? 0 : diagonal - left;
  const long long end = right < 0 || diagonal + right + 1 >= k_len ? k_len : diagonal + right + 1;
  return {begin, end < 0 ? 0 : end};
}

/// Rows [begin, end) that may see key j: those of key_range, where the sequence has them.
struct RowRange {
  long long begin;
  long long end;
};
constexpr RowRange row_range(long long j, long long q_len, long long k_len, long long left,
                             long long right) {
  const long long diagonal = j - (k_len - q_len);  // the row whose diagonal key is j
  const long long begin = right < 0 || diagonal <= right ? 0 : diagonal - right;
  const long long end = left < 0 || diagonal + left + 1 >= q_len ? q_len : diagonal + left + 1;
  return {begin, end < 0 ? 0 : end};
}

}  // namespace fa::mask
