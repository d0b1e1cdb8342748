#include "verify/verdict.hpp"

#include <fmt/format.h>

#include "support/text.hpp"

namespace fa::cli {

std::string to_text(const std::vector<Verdict>& verdicts) {
  std::string text = fmt::format("{:<8} {:<9} {:>10} {:>14} {:>14}\n", "tensor", "dtype", "error",
                                 "plain formula", "error / bound");
  for (const Verdict& v : verdicts) {
    text += fmt::format("{:<8} {:<9} {:>10.2e} {:>14.2e} {:>14.3f}{}\n", v.tensor(),
                        support::dtype_text(v.dtype()), v.error(), v.plain_error(), v.ratio(),
                        v.right() ? "" : "  WRONG: " + v.problem());
  }
  return text;
}

}  // namespace fa::cli
