// A call of the C ABI drawn from a fuzzer's bytes: first a valid one, then spoilt.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "fa/fa.h"
#include "operand.hpp"

namespace fa::fuzz {

enum Name : uint8_t {
  q,
  k,
  v,
  out,
  lse,
  dout,
  dq,
  dk,
  dv,
  dlse,
  dbias,
  dsinks,
  dropout_state,
  slopes,
  bias,
  sinks,
  cu_seqlens_q,
  cu_seqlens_k,
  seqused_q,
  seqused_k,
  names
};

/// A struct in as many bytes as its `size` says.
class Sized {
 public:
  template <typename T>
  explicit Sized(const T& value, uint8_t beyond);
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes_.get());
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

struct Problem {
  std::array<std::optional<Operand>, names> operands;
  fa_options options FA_OPTIONS_INIT;
  size_t args_size = 0;  ///< 0: what it should be
  bool without_options = false;
  bool without_args = false;
  uint8_t beyond = 0;    ///< fills structs behind the last field known here
  bool aliased = false;  ///< operands share memory

  const fa_tensor* c(Name name) const { return operands[name] ? operands[name]->c() : nullptr; }
  fa_forward_args forward_args() const;
  fa_backward_args backward_args() const;
};

/// A valid call, or one that is refused, of any size when it is only to be planned: then without
/// memory.
Problem draw_problem(FuzzedDataProvider& data, bool only_planned);

template <typename T>
Sized::Sized(const T& value, uint8_t beyond) {
  // The library reads no struct of more than 4096 bytes, and of any its size.
  const size_t bytes = std::clamp<size_t>(value.size, sizeof value.size, 4096);
  bytes_ = std::make_unique<std::byte[]>(bytes);
  std::memset(bytes_.get(), beyond, bytes);
  std::memcpy(bytes_.get(), &value, std::min(bytes, sizeof value));
}

}  // namespace fa::fuzz
