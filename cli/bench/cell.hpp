// A cell of the benchmark: one pass of one problem.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "fa/attention.hpp"

namespace fa::cli {

enum class Work : uint8_t { forward, backward, decode };

struct Cell {
  std::string name;  ///< of the model; empty in the grid
  Work work = Work::forward;
  DType dtype{};
  int64_t batch = 1;
  int64_t seqlen_q = 1;
  int64_t seqlen_k = 1;
  int64_t heads_q = 1;
  int64_t heads_k = 1;
  int64_t head_dim = 64;
  bool causal = false;

  /// Floating point operations, as the FlashAttention papers count them.
  double flops() const;
  /// Bytes of K and V, which decoding reads once.
  int64_t key_bytes() const;
  /// Decoding is measured by bytes, the others by operations.
  double amount() const;
};

/// The cells to time.
struct Grid {
  std::vector<std::string> dtypes{"float32", "bfloat16"};
  std::vector<int64_t> head_dims{64, 128, 256};
  std::vector<int64_t> seqlens{512, 1024, 2048, 4096};
  std::vector<std::string> works{"forward", "backward", "decode"};
  int64_t tokens = 4096;  ///< batch * seqlen
  int64_t hidden = 1024;  ///< heads * head_dim
  bool models = false;    ///< famous models at `model_seqlen` in place of the grid
  int64_t model_seqlen = 8192;
};

/// Throws UsageError.
std::vector<Cell> cells_of(const Grid& grid);

std::string to_text(Work work);
nlohmann::json to_json(const Cell& cell);

}  // namespace fa::cli
