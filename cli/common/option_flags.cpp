#include "common/option_flags.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>

namespace fa::cli {

void add_option_flags(CLI::App& app, Options& options) {
  const char* group = "Attention";
  const auto number = [&](const char* flag, auto& value, const char* help) {
    return app.add_option(flag, value, help)->group(group);
  };
  const auto on = [&](const char* flag, bool& value, const char* help) {
    app.add_flag(flag, value, help)->group(group);
  };
  number("--scale", options.scale, "factor of the scores; 1/sqrt(head_dim) when not given");
  on("--causal", options.causal, "query i sees key j only if j <= i + Sk - Sq");
  number("--window-left", options.window_left, "keys seen before the diagonal; -1: all");
  number("--window-right", options.window_right, "keys seen after the diagonal; -1: all");
  number("--softcap", options.softcap, "scores become cap * tanh(score / cap); 0: off");
  number("--dropout-p", options.dropout_p, "probability with which an element of P is dropped");
  number("--dropout-seed", options.dropout_seed, "seed of dropout")->check(unsigned_number());
  number("--dropout-offset", options.dropout_offset, "offset of dropout")->check(unsigned_number());
  on("--deterministic", options.deterministic, "the same bits run to run");
  on("--batch-invariant", options.batch_invariant, "the same bits whatever else is in the batch");
  number("--threads", options.num_threads, threads_help);
}

CLI::Validator unsigned_number() {
  const auto problem = [](const std::string& text) -> std::string {
    errno = 0;
    std::strtoull(text.c_str(), nullptr, 0);
    if (errno != ERANGE && text.find('-') == text.npos) return {};
    return fmt::format("is {}; allowed are 0 to {}", text, std::numeric_limits<uint64_t>::max());
  };
  return {problem, "", "unsigned_number"};
}

}  // namespace fa::cli
