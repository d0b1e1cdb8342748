// A forward pass that forgets the values: loaded in front of libfa, so that what compares results
// can be seen to notice.
#include <cstring>

#include "fa/attention.hpp"

namespace fa {

void forward(const ForwardArgs& args, const Options& /*options*/, Stream /*stream*/) {
  int64_t bytes = args.out.dtype.bits / 8;
  for (int32_t i = 0; i < args.out.ndim; ++i) bytes *= args.out.shape[i];
  std::memset(args.out.data, 0, static_cast<size_t>(bytes));
}

}  // namespace fa
