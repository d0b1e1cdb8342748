// A constant that a function is given as an argument: an empty object whose type says it.
#pragma once

namespace fa::kernel {

template <bool value_>
struct Flag {
  static constexpr bool value = value_;
};

}  // namespace fa::kernel
