#include <array>

#include "problem/argument.hpp"
#include "problem/problem.hpp"

namespace fa {

using Use = Argument::Use;
using Dtypes = std::initializer_list<DType>;

MergeCall validate_merge(const Tensor& out_a, const Tensor& lse_a, const Tensor& out_b,
                         const Tensor& lse_b, const Tensor& out, const Tensor& lse) {
  need_known_device("out_a", out_a);
  std::array<Argument, 6> arguments;
  size_t count = 0;
  const auto add = [&](const char* name, const Tensor& tensor, Use use,
                       Dtypes allowed) -> const Argument& {
    return arguments[count++] = Argument(name, tensor, out_a.device, use, Data::required, allowed);
  };
  const Argument& first = add("out_a", out_a, Use::input, {float32, float16, bfloat16});
  const bool packed = first.ndim() == 3;
  if (!packed) first.need_dims(4, "[batch, seqlen, heads, head_dim] (or 3, packed)");
  const int row = packed ? 0 : 1;
  MergeCall call{packed ? 1 : first.extent(0),
                 first.extent(row),
                 first.extent(row + 1),
                 first.extent(row + 2),
                 {},
                 {},
                 {},
                 {},
                 {},
                 {}};
  const auto outputs = [&](const Argument& a) {
    if (packed) {
      a.need_shape({call.seqlen, call.heads, call.head_dim}, "out_a's shape");
    } else {
      a.need_shape({call.batch, call.seqlen, call.heads, call.head_dim}, "out_a's shape");
    }
    return packed ? a.rows(-1, 0, 1) : a.rows(0, 1, 2);
  };
  const auto statistics = [&](const Argument& a) {
    if (packed) {
      a.need_shape({call.heads, call.seqlen}, "[heads, tokens]");
    } else {
      a.need_shape({call.batch, call.heads, call.seqlen}, "[batch, heads, seqlen]");
    }
    return packed ? a.rows(-1, 1, 0) : a.rows(0, 2, 1);
  };
  call.out_a = outputs(first);
  call.lse_a = statistics(add("lse_a", lse_a, Use::input, {float32}));
  call.out_b = outputs(add("out_b", out_b, Use::input, {first.dtype()}));
  call.lse_b = statistics(add("lse_b", lse_b, Use::input, {float32}));
  call.out = outputs(add("out", out, Use::output, {first.dtype()}));
  call.lse = statistics(add("lse", lse, Use::output, {float32}));
  need_disjoint(arguments,
                {{"out", "out_a"}, {"out", "out_b"}, {"lse", "lse_a"}, {"lse", "lse_b"}});
  return call;
}

}  // namespace fa
