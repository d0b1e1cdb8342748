#include "run/inputs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "run/sources.hpp"

namespace fa::cli {
namespace {

void check_dims(const char* flag, const io::Array& array) {
  const size_t dims = array.shape().size();
  if (dims == 3 || dims == 4) return;
  throw UsageError(fmt::format("{}: has the shape [{}]; it must have 3 or 4 dimensions", flag,
                               fmt::join(array.shape(), ", ")));
}

void add_batch(io::Array& array, size_t dims) {
  if (!array.given() || array.shape().size() != dims) return;
  std::vector<int64_t> shape = array.shape();
  shape.insert(shape.begin(), 1);
  array.reshape(shape);
}

/// The longest of the packed sequences; the library checks the numbers themselves.
int64_t longest(const io::Array& cu_seqlens) {
  int64_t most = 0;
  if (cu_seqlens.dtype() != int32) return most;
  const auto* begin = cu_seqlens.as<int32_t>();
  for (int64_t i = 0; i + 1 < cu_seqlens.elements(); ++i) {
    most = std::max<int64_t>(most, int64_t{begin[i + 1]} - begin[i]);
  }
  return most;
}

}  // namespace

void RunFlags::add_to(const support::Flags& command) {
  const auto tensor = [&](const char* flag, std::string& value, const char* help) {
    command.value(flag, value, help).group("Tensors").type_name("SRC");
  };
  command.value("--tensors", tensors, "a .safetensors file; a SRC may be a name in it")
      .group("Tensors")
      .type_name("FILE");
  tensor("--q", q, "queries, [B, Sq, Hq, D], or one sequence [Sq, Hq, D]; \"q\" in --tensors");
  tensor("--k", k, "keys, [B, Sk, Hk, D] or [Sk, Hk, D]");
  tensor("--v", v, "values, [B, Sk, Hk, Dv] or [Sk, Hk, Dv]");
  for (size_t n = 0; n < tensor_option_count; ++n) {
    tensor(tensor_options[n].flag, of_options[n], tensor_options[n].help);
  }
  tensor("--cu-seqlens-q", cu_seqlens_q, "[B + 1]: q is packed, [Tq, Hq, D]");
  tensor("--cu-seqlens-k", cu_seqlens_k, "[B + 1]: k and v are packed");
  tensor("--seqused-q", seqused_q, "[B]: how many rows of each sequence count");
  tensor("--seqused-k", seqused_k, "[B]: how many keys of each sequence count");
  tensor("--dropout-state", dropout_state, "int64 [2]: seed and offset");
  tensor("--dout", dout, "gradient of the loss by the output: asks for the gradients");
  tensor("--dlse", dlse, "gradient of the loss by LSE, float32; needs --dout");
  add_option_flags(command, options);
  const auto longest = [&](const char* flag, int64_t& value, const char* help) {
    command.value(flag, value, help).group("Attention");
  };
  longest("--max-seqlen-q", options.max_seqlen_q, "longest of the packed sequences of queries");
  longest("--max-seqlen-k", options.max_seqlen_k, "longest of the packed sequences of keys");
}

RunInputs::RunInputs(const RunFlags& flags) : options_(flags.options) {
  if (!flags.dlse.empty() && flags.dout.empty()) throw UsageError("--dlse: needs --dout");
  Sources sources(flags.tensors);
  q = sources.read("--q", flags.q);
  k = sources.read("--k", flags.k);
  v = sources.read("--v", flags.v);
  dout = sources.read("--dout", flags.dout);
  dlse = sources.read("--dlse", flags.dlse);
  for (size_t n = 0; n < tensor_option_count; ++n) {
    of_options[n].array = sources.read(tensor_options[n].flag, flags.of_options[n]);
    of_options[n].shape = of_options[n].array.shape();
  }
  dropout_state_ = sources.read("--dropout-state", flags.dropout_state);
  cu_seqlens_q_ = sources.read_lengths("--cu-seqlens-q", flags.cu_seqlens_q);
  cu_seqlens_k_ = sources.read_lengths("--cu-seqlens-k", flags.cu_seqlens_k);
  seqused_q_ = sources.read_lengths("--seqused-q", flags.seqused_q);
  seqused_k_ = sources.read_lengths("--seqused-k", flags.seqused_k);
  files_ = sources.files();
  check_dims("--q", q);
  check_dims("--k", k);
  check_dims("--v", v);

  one_sequence_q_ = !cu_seqlens_q_.given() && q.shape().size() == 3;
  one_sequence_k_ = !cu_seqlens_k_.given() && k.shape().size() == 3;
  if (one_sequence_q_) {
    add_batch(q, 3);
    add_batch(dout, 3);
    add_batch(dlse, 2);
    for (size_t n = 0; n < tensor_option_count; ++n) {
      if (tensor_options[n].of_scores) add_batch(of_options[n].array, 3);
    }
  }
  if (one_sequence_k_) {
    add_batch(k, 3);
    add_batch(v, 3);
  }
  for (size_t n = 0; n < tensor_option_count; ++n) {
    options_.*tensor_options[n].argument = of_options[n].array.tensor();
  }
  options_.dropout_state = dropout_state_.tensor();
  set_lengths(flags);
}

void RunInputs::set_lengths(const RunFlags& flags) {
  options_.cu_seqlens_q = cu_seqlens_q_.tensor();
  options_.cu_seqlens_k = cu_seqlens_k_.tensor();
  options_.seqused_q = seqused_q_.tensor();
  options_.seqused_k = seqused_k_.tensor();
  if (cu_seqlens_q_.given() && flags.options.max_seqlen_q == 0) {
    options_.max_seqlen_q = longest(cu_seqlens_q_);
  }
  if (cu_seqlens_k_.given() && flags.options.max_seqlen_k == 0) {
    options_.max_seqlen_k = longest(cu_seqlens_k_);
  }
}

}  // namespace fa::cli
