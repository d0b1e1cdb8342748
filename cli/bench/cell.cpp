#include "bench/cell.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "common/dtype_name.hpp"
#include "common/exit.hpp"
#include "demo/models.hpp"
#include "support/text.hpp"
#include "system/shown.hpp"

namespace fa::cli {
namespace {

/// One query of each head against a cache of keys, with the heads of Llama 2 7B, Llama 3 8B and
/// Qwen2.5 72B.
struct DecodeShape {
  int64_t heads_q;
  int64_t heads_k;
  int64_t seqlen_k;
};
constexpr std::array decode_shapes{DecodeShape{32, 32, 4096}, DecodeShape{32, 8, 8192},
                                   DecodeShape{64, 8, 32768}};

Work parse_work(const std::string& name) {
  for (const Work work : {Work::forward, Work::backward, Work::decode}) {
    if (name == to_text(work)) return work;
  }
  throw UsageError(fmt::format("--work: is \"{}\"; forward, backward and decode are allowed",
                               system::shown(name)));
}

void add_decode(std::vector<Cell>& cells, DType dtype) {
  for (const DecodeShape& shape : decode_shapes) {
    cells.push_back(
        {"", Work::decode, dtype, 1, 1, shape.seqlen_k, shape.heads_q, shape.heads_k, 128, false});
  }
}

void add_models(std::vector<Cell>& cells, const Grid& grid, Work work, DType dtype) {
  const int64_t n = grid.model_seqlen;
  for (const Model& m : models) {
    if (m.head_dim != 128) continue;  // GPT-2 has no context of this length
    cells.push_back({m.name, work, dtype, 1, n, n, m.heads_q, m.heads_k, m.head_dim, true});
  }
}

void add_grid(std::vector<Cell>& cells, const Grid& grid, Work work, DType dtype) {
  for (const int64_t head_dim : grid.head_dims) {
    for (const bool causal : {false, true}) {
      for (const int64_t n : grid.seqlens) {
        const int64_t heads = std::max<int64_t>(1, grid.hidden / head_dim);
        const int64_t batch = std::max<int64_t>(1, grid.tokens / n);
        cells.push_back({"", work, dtype, batch, n, n, heads, heads, head_dim, causal});
      }
    }
  }
}

}  // namespace

double Cell::flops() const {
  return attention_flops(static_cast<double>(batch), static_cast<double>(heads_q),
                         static_cast<double>(seqlen_q), static_cast<double>(seqlen_k),
                         static_cast<double>(head_dim), causal, work == Work::backward);
}

int64_t Cell::key_bytes() const {
  return 2 * batch * seqlen_k * heads_k * head_dim * dtype.bits / 8;
}

double Cell::amount() const {
  return work == Work::decode ? static_cast<double>(key_bytes()) : flops();
}

std::vector<Cell> cells_of(const Grid& grid) {
  std::vector<Cell> cells;
  for (const std::string& dtype_name : grid.dtypes) {
    const DType dtype = parse_dtype(dtype_name);
    for (const std::string& work_name : grid.works) {
      const Work work = parse_work(work_name);
      if (work == Work::decode) {
        add_decode(cells, dtype);
      } else if (grid.models) {
        add_models(cells, grid, work, dtype);
      } else {
        add_grid(cells, grid, work, dtype);
      }
    }
  }
  return cells;
}

std::string to_text(Work work) {
  if (work == Work::forward) return "forward";
  return work == Work::backward ? "backward" : "decode";
}

nlohmann::json to_json(const Cell& c) {
  return {
      {"model", c.name},      {"work", to_text(c.work)}, {"dtype", support::dtype_text(c.dtype)},
      {"batch", c.batch},     {"seqlen_q", c.seqlen_q},  {"seqlen_k", c.seqlen_k},
      {"heads_q", c.heads_q}, {"heads_k", c.heads_k},    {"head_dim", c.head_dim},
      {"causal", c.causal},   {"flops", c.flops()},      {"key_bytes", c.key_bytes()}};
}

}  // namespace fa::cli
