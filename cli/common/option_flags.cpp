#include "common/option_flags.hpp"

namespace fa::cli {

void add_option_flags(const support::Flags& command, Options& options) {
  const char* group = "Attention";
  const auto number = [&](const char* flag, auto& value, const char* help) {
    return command.value(flag, value, help).group(group);
  };
  const auto on = [&](const char* flag, bool& value, const char* help) {
    command.on(flag, value, help).group(group);
  };
  number("--scale", options.scale, "factor of the scores; 1/sqrt(head_dim) when not given");
  on("--causal", options.causal, "query i sees key j only if j <= i + Sk - Sq");
  number("--window-left", options.window_left, "keys seen before the diagonal; -1: all");
  number("--window-right", options.window_right, "keys seen after the diagonal; -1: all");
  number("--softcap", options.softcap, "scores become cap * tanh(score / cap); 0: off");
  number("--dropout-p", options.dropout_p, "probability with which an element of P is dropped");
  number("--dropout-seed", options.dropout_seed, "seed of dropout").unsigned_number();
  number("--dropout-offset", options.dropout_offset, "offset of dropout").unsigned_number();
  on("--deterministic", options.deterministic, "the same bits run to run");
  on("--batch-invariant", options.batch_invariant, "the same bits whatever else is in the batch");
  number("--threads", options.num_threads, threads_help);
}

}  // namespace fa::cli
