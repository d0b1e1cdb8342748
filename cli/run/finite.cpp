#include "run/finite.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/exit.hpp"
#include "reference/layout.hpp"
#include "reference/number.hpp"

namespace fa::cli {
namespace {

using reference::Shapes;
using reference::Side;

/// One input, of which some elements are looked at.
class Input {
 public:
  Input(const char* flag, const io::Array& array, bool masks = false)
      : flag_(flag), array_(array), masks_(masks) {}

  const io::Array& array() const { return array_; }

  void look(int64_t first, int64_t count) const {
    const DType dtype = array_.dtype();
    for (int64_t i = first; i < first + count; ++i) {
      const double x = reference::load(dtype, array_.data() + i * dtype.bits / 8);
      if (std::isfinite(x) || (masks_ && x == -std::numeric_limits<double>::infinity())) continue;
      throw UsageError(fmt::format("{}: element {} is {}; --check needs finite numbers{}", flag_, i,
                                   x, masks_ ? ", or -inf" : ""));
    }
  }
  void look() const { look(0, array_.elements()); }

 private:
  const char* flag_;
  const io::Array& array_;
  bool masks_;
};

/// [B, S, H, D] or [T, H, D]
void look_at_rows(const Input& input, const Shapes& shapes, const Side& side) {
  const auto& shape = input.array().shape();
  const int64_t width = shape[shape.size() - 2] * shape.back();
  for (int64_t b = 0; b < shapes.batch; ++b) {
    const reference::Span span = side.span(b);
    input.look(span.first * width, span.used * width);
  }
}

/// [B, Hq, Sq] or [Hq, Tq]
void look_at_dlse(const Input& input, const Shapes& shapes) {
  for (int64_t b = 0; b < shapes.batch; ++b) {
    for (int64_t h = 0; h < shapes.heads_q; ++h) {
      input.look(shapes.lse_at(b, h, 0), shapes.rows.span(b).used);
    }
  }
}

/// [B or 1, Hq or 1, Sq or 1, Sk]
void look_at_scores(const Input& input, const Shapes& shapes) {
  const auto& extent = input.array().shape();
  for (int64_t b = 0; b < shapes.batch; ++b) {
    const int64_t rows = std::min(shapes.rows.span(b).used, extent[2]);
    for (int64_t h = 0; h < extent[1]; ++h) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = ((extent[0] == 1 ? 0 : b) * extent[1] + h) * extent[2] + i;
        input.look(row * extent[3], shapes.keys.span(b).used);
      }
    }
  }
}

}  // namespace

void refuse_non_finite(const RunInputs& in, const BackwardArgs& args) {
  const Shapes shapes(args, in.options());
  look_at_rows({"--q", in.q}, shapes, shapes.rows);
  look_at_rows({"--k", in.k}, shapes, shapes.keys);
  look_at_rows({"--v", in.v}, shapes, shapes.keys);
  if (in.dout.given()) look_at_rows({"--dout", in.dout}, shapes, shapes.rows);
  if (in.dlse.given()) look_at_dlse({"--dlse", in.dlse}, shapes);
  for (size_t n = 0; n < tensor_option_count; ++n) {
    const TensorOption& option = tensor_options[n];
    const io::Array& array = in.of_options[n].array;
    if (!array.given()) continue;
    const Input input(option.flag, array, option.masks);
    option.of_scores ? look_at_scores(input, shapes) : input.look();
  }
}

}  // namespace fa::cli
