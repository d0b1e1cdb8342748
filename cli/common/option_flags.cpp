#include "common/option_flags.hpp"

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
  number("--dropout-seed", options.dropout_seed, "seed of dropout")->check(not_negative());
  number("--dropout-offset", options.dropout_offset, "offset of dropout")->check(not_negative());
  number("--max-seqlen-q", options.max_seqlen_q, "longest of the packed sequences of queries");
  number("--max-seqlen-k", options.max_seqlen_k, "longest of the packed sequences of keys");
  on("--deterministic", options.deterministic, "the same bits run to run");
  on("--batch-invariant", options.batch_invariant, "the same bits whatever else is in the batch");
  number("--threads", options.num_threads, "CPU threads; 0: one for each core");
}

CLI::Validator not_negative() {
  const auto problem = [](const std::string& text) {
    return text.starts_with('-') ? "is " + text + "; it must not be negative" : std::string();
  };
  return {problem, "", "not_negative"};
}

}  // namespace fa::cli
