// One tensor argument: the checks that all arguments share. Each error names the argument.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>

#include "problem/overlap.hpp"
#include "problem/problem.hpp"

namespace fa {

template <typename... T>
[[noreturn]] void fail(Status status, const char* argument, fmt::format_string<T...> format,
                       T&&... args) {
  throw Error(status,
              fmt::format("{}: {}", argument, fmt::format(format, std::forward<T>(args)...)));
}

/// Allocates nothing, so that a call's arguments are checked without memory.
class Argument {
 public:
  enum class Use : uint8_t { input, output };

  Argument() = default;

  /// Checks dtype, extents, strides and addresses. Of an output it also checks that no two of its
  /// elements share memory.
  Argument(const char* name, const Tensor& tensor, Device device, Use use, Data data,
           std::initializer_list<DType> allowed);

  const char* name() const { return name_; }
  DType dtype() const { return tensor_.dtype; }
  int32_t ndim() const { return tensor_.ndim; }
  int64_t extent(int dim) const { return tensor_.shape[dim]; }
  int64_t stride(int dim) const { return strides_[dim]; }
  bool empty() const { return empty_; }
  bool output() const { return use_ == Use::output; }
  char* data() const { return data_; }

  /// `expected` in words ("[batch, seqlen_q, heads_q]") for the message.
  void need_shape(std::initializer_list<int64_t> shape, const char* expected) const;
  void need_dims(int ndim, const char* expected) const;
  /// Largest power of two up to 16 that divides the address and the byte strides of all rows; at
  /// most 8 where a stride is negative or 2^40 bytes or more: wider copies may take no such rows.
  int32_t alignment() const;
  /// Interleaved views (dq, dk, dv of one packed tensor) share nothing.
  Sharing sharing(const Argument& other) const;
  bool same_view(const Argument& other) const;

  /// Row layout: which dimensions are batch, row and head (-1: none).
  Rows rows(int batch_dim, int row_dim, int head_dim) const;

 private:
  void need_dtype(std::initializer_list<DType> allowed) const;
  void need_reach();
  void need_distinct_elements() const;
  void need_address();
  Footprint footprint() const;
  std::string shape_text() const;
  std::string strides_text() const;

  const char* name_ = nullptr;
  Tensor tensor_;
  Use use_ = Use::input;
  std::array<int64_t, View::max_dims> strides_{};
  char* data_ = nullptr;
  int64_t low_ = 0;  ///< from the first element to the lowest, in elements
  int64_t high_ = 0;
  Footprint footprint_;  ///< without its dimensions
  bool empty_ = false;
};

void need_known_device(const char* name, const Tensor& tensor);

/// Throws when an output shares memory with an input or another output.
/// `in_place` lists pairs of names that may be the very same view.
void need_disjoint(std::span<const Argument> arguments,
                   std::initializer_list<std::pair<const char*, const char*>> in_place = {});

}  // namespace fa
