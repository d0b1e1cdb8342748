// The tensors and options of `fa run`, from flags to what the library takes.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/tensor_options.hpp"
#include "fa/attention.hpp"
#include "run/results.hpp"
#include "support/flags.hpp"
#include "support/io/array.hpp"

namespace fa::cli {

/// Flags that name a tensor each (see Sources), and the numbers of fa::Options.
struct RunFlags {
  std::string tensors;
  std::string q = "q", k = "k", v = "v";
  std::array<std::string, tensor_option_count> of_options;  ///< as tensor_options
  std::string dropout_state;
  std::string cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k;
  std::string dout, dlse;
  Options options;

  void add_to(const support::Flags& command);
};

/// The tensor of an option.
struct OptionInput {
  io::Array array;
  std::vector<int64_t> shape;  ///< as it was read
};

/// Everything that is read. Tensors of 3 dimensions that are not packed are one sequence: they get
/// a batch of 1 here, and results lose it again.
class RunInputs {
 public:
  explicit RunInputs(const RunFlags& flags);

  const Options& options() const { return options_; }
  bool gradients() const { return dout.given(); }
  bool one_sequence_q() const { return one_sequence_q_; }
  bool one_sequence_k() const { return one_sequence_k_; }
  const std::vector<std::string>& files() const { return files_; }  ///< all that were read

  io::Array q, k, v, dout, dlse;
  std::array<OptionInput, tensor_option_count> of_options;  ///< as tensor_options

 private:
  void set_lengths(const RunFlags& flags);

  io::Array dropout_state_;
  io::Array cu_seqlens_q_, cu_seqlens_k_, seqused_q_, seqused_k_;
  bool one_sequence_q_ = false;
  bool one_sequence_k_ = false;
  std::vector<std::string> files_;
  Options options_;  ///< points into the arrays
};

}  // namespace fa::cli
