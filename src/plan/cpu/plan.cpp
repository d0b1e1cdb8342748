#include "plan/cpu/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fa {

namespace {

// With fewer multiply-adds a parallel region costs more than it saves: a few microseconds, and up
// to milliseconds beside a second OpenMP runtime that spins.
constexpr double one_thread_work = 1 << 19;
// Work items of each thread between two barriers. With 8, a machine that also runs other programs
// was half as fast at 512 keys, because a thread that is not scheduled holds up all others.
constexpr int64_t items_per_thread = 32;
// Bytes that packed keys or partial outputs may take for each thread, if one unit does not need
// more.
constexpr int64_t thread_share_bytes = 16 << 20;
// Bytes that a thread packs for itself alone: a core's share of the last caches.
constexpr int64_t private_unit_bytes = 4 << 20;
// Work items wanted of a sequence in the backward pass when it is the only one.
constexpr int64_t backward_items = 16;
constexpr int64_t min_backward_chunk = 480;

/// Multiply-adds of the forward pass without a mask.
double work(const Problem& p) {
  return static_cast<double>(p.q.tokens) * static_cast<double>(p.k.seqlen) *
         static_cast<double>(p.q.heads * (p.head_dim + p.head_dim_v));
}

int64_t longest_head_dim(const Problem& p) { return std::max(p.head_dim, p.head_dim_v); }

int64_t partial_floats(const Problem& p, int64_t rows, int64_t chunks) {
  return chunks * rows * (padded(p.head_dim_v) + 2);
}

/// Whether a key head has few query rows. Then its keys are cut in chunks, and tiles read them in
/// place or pack what they read. More than one tile (96 rows) counts as few only in decoding, where
/// 128 query heads may share one key head.
bool few_queries(const TileShape& tiles, int64_t q_len) {
  return tiles.count() == 1 || (tiles.count() <= 4 && q_len <= 16);
}

/// The CPU's arithmetic for bfloat16, where the problem has that dtype and meets its conditions.
Arithmetic choose_arithmetic(const Problem& p, Arithmetic bfloat16) {
  if (p.dtype != fa::bfloat16) return Arithmetic::widened;
  // Pairs take the scale after their sums, not before: with a small scale the sums could overflow
  // where the scores do not.
  if (std::abs(p.score.scale) < 0x1p-12) return Arithmetic::widened;
  const bool whole_tiles = p.head_dim % tile_span == 0 && p.head_dim_v % tile_span == 0;
  return bfloat16 == Arithmetic::tiles && !whole_tiles ? Arithmetic::widened : bfloat16;
}

/// Keys in place are never multiplied by tiles, which take packed ones, and by pairs only if a row
/// is a whole number of vectors.
Arithmetic choose_in_place(const Problem& p, Arithmetic packed) {
  const bool whole_vectors = p.head_dim % (2 * lane_pad) == 0 && p.head_dim_v % (2 * lane_pad) == 0;
  return packed == Arithmetic::pairs && whole_vectors ? Arithmetic::pairs : Arithmetic::widened;
}

const char* text_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::pairs:
      return "bfloat16, in pairs";
    case Arithmetic::tiles:
      return "bfloat16, by tiles";
    default:
      return "float32";
  }
}

template <typename Scratch, typename Shared>
void add_up(CpuPlan& plan) {
  Arena thread;
  const Scratch scratch(thread, plan);
  plan.thread_bytes = thread.bytes();
  Arena all;
  const Shared shared(all, plan);
  plan.workspace_bytes = all.bytes() + plan.threads * plan.thread_bytes;
}

/// Units between two barriers: as many as memory allows, at least one.
int64_t in_work(const CpuPlan& plan, const ForwardCut& cut) {
  const Problem& p = plan.problem;
  const int64_t units = std::max<int64_t>(p.batch * cut.units(p.k.heads), 1);
  int64_t wanted = ceil_div(items_per_thread * plan.threads, std::max<int64_t>(cut.items(), 1));
  if (cut.floats() > 0) {
    const int64_t limit = thread_share_bytes * plan.threads / static_cast<int64_t>(sizeof(float));
    wanted = std::min(wanted, limit / cut.floats());
  }
  return std::clamp<int64_t>(wanted, 1, units);
}

/// The cuts that shared memory is planned for: that of the longest sequence and, where lengths
/// vary, that of every number of queries whose keys are cut in chunks.
std::vector<ForwardCut> longest_cuts(const CpuPlan& plan) {
  const Problem& p = plan.problem;
  std::vector<ForwardCut> cuts{cut_forward(plan, p.q.seqlen, p.k.seqlen)};
  if (!p.q.packed && !p.q.used) return cuts;
  const int64_t most = std::max<int64_t>(plan.tuning.forward_rows / p.group(), 16);
  for (int64_t q_len = 1; q_len <= std::min(p.q.seqlen, most); ++q_len) {
    const ForwardCut cut = cut_forward(plan, q_len, p.k.seqlen);
    if (cut.chunks > 1) cuts.push_back(cut);
  }
  return cuts;
}

/// Sets how many key heads a unit in place has: as many as leave each thread a few items.
void share_heads_in_place(CpuPlan& plan) {
  const Problem& p = plan.problem;
  plan.heads_in_place = std::max<int64_t>(p.k.heads, 1);
  const auto items = [&] {
    const ForwardCut cut = cut_forward(plan, p.q.seqlen, p.k.seqlen);
    return cut.in_place ? p.batch * cut.units(p.k.heads) * cut.items() : plan.threads * 4;
  };
  while (plan.heads_in_place > 1 && items() < plan.threads * 4) plan.heads_in_place /= 2;
}

/// Whether a thread takes whole units. It does if there are enough units to keep all threads busy
/// to the end, and if a unit does not need so much memory that threads had better share it. Where
/// lengths vary, only as many units count as could have the longest length.
bool whole_units_fit(const CpuPlan& plan, const ForwardCut& cut) {
  const Problem& p = plan.problem;
  if (plan.threads == 1) return true;
  if (plan.unit_floats * static_cast<int64_t>(sizeof(float)) > private_unit_bytes) return false;
  if (p.q.used || p.k.used) return false;  // the plan does not know the lengths
  int64_t sequences = p.batch;
  if (p.q.packed) sequences = std::min(sequences, p.q.tokens / std::max<int64_t>(p.q.seqlen, 1));
  if (p.k.packed) sequences = std::min(sequences, p.k.tokens / std::max<int64_t>(p.k.seqlen, 1));
  const int64_t units = sequences * cut.units(p.k.heads);
  if (p.q.packed || p.k.packed) return units >= 16 * plan.threads;
  const int64_t rounds = ceil_div(units, plan.threads);
  return rounds >= 2 && 20 * units >= 19 * plan.threads * rounds;
}

/// Rows of a tile whose keys are packed. With more rows a head's packed keys are read less often,
/// but there have to be enough tiles for all threads. Results do not depend on the number, because
/// a row's result does not depend on the other rows.
int64_t choose_packed_rows(const CpuPlan& plan) {
  const Problem& p = plan.problem;
  const CpuTuning& t = plan.tuning;
  const int64_t head_bytes = ceil_div(p.k.seqlen, t.forward_keys) *
                             packed_block_floats(p, t.forward_keys) *
                             static_cast<int64_t>(sizeof(float));
  const int64_t rows = 2 * t.forward_rows;
  const int64_t tiles = p.q.tokens * p.q.heads / rows;
  return head_bytes > t.long_head_bytes && tiles >= 8 * plan.threads ? rows : t.forward_rows;
}

/// The most pieces of work that threads could hold at once.
int64_t pieces(CpuPlan plan) {
  const Problem& p = plan.problem;
  int64_t most = 1;
  if (p.pass == Pass::forward) {
    plan.packed_rows = plan.tuning.forward_rows;
    for (const ForwardCut& cut : longest_cuts(plan)) {
      const int64_t of_unit = std::max(cut.items(), cut.pack_blocks);
      most = std::max(most, p.batch * cut.units(p.k.heads) * of_unit);
    }
    return most;
  }
  most = std::max(p.batch * p.q.heads, p.batch * p.k.heads * cut_backward(plan, p.k.seqlen));
  if (p.wants.dbias) most = std::max(most, bias_tiles(plan).count());
  return std::max<int64_t>(most, 1);
}

void plan_forward(CpuPlan& plan) {
  plan.packed_rows = choose_packed_rows(plan);
  share_heads_in_place(plan);
  const std::vector<ForwardCut> cuts = longest_cuts(plan);
  for (const ForwardCut& cut : cuts) plan.unit_floats = std::max(plan.unit_floats, cut.floats());
  plan.whole_units = whole_units_fit(plan, cuts.front());
  plan.units_in_work = plan.whole_units ? plan.threads : in_work(plan, cuts.front());
  int64_t floats = plan.whole_units ? plan.threads * plan.unit_floats : 0;
  for (const ForwardCut& cut : cuts) {
    if (!plan.whole_units) floats = std::max(floats, in_work(plan, cut) * cut.floats());
  }
  plan.shared_bytes = sizeof(float) * floats;
  const Problem& p = plan.problem;
  plan.streams_out =
      p.q.tokens * p.q.heads * p.head_dim_v * bytes_of(p.dtype) >= plan.tuning.large_bytes;
  add_up<ForwardScratch, ForwardShared>(plan);
}

void plan_backward(CpuPlan& plan) {
  plan.backward_chunks = cut_backward(plan, plan.problem.k.seqlen);
  add_up<BackwardScratch, BackwardShared>(plan);
}

}  // namespace

bool runs_alone(const Problem& problem) { return work(problem) <= one_thread_work; }

CpuPlan plan_cpu(const Problem& problem, int threads, Arithmetic bfloat16,
                 const CpuTuning& tuning) {
  CpuPlan plan;
  plan.problem = problem;
  plan.tuning = tuning;
  plan.arithmetic = choose_arithmetic(problem, bfloat16);
  plan.arithmetic_in_place = choose_in_place(problem, plan.arithmetic);
  const int wanted = problem.run.num_threads > 0 ? problem.run.num_threads
                     : runs_alone(problem)       ? 1
                                                 : threads;
  // mutant "threads held to the work" of plan_test: pieces(plan) => wanted
  plan.threads = static_cast<int>(std::clamp<int64_t>(wanted, 1, pieces(plan)));
  if (problem.pass == Pass::forward) {
    plan_forward(plan);
  } else {
    plan_backward(plan);
  }
  return plan;
}

TileShape tile_shape(int64_t group, int64_t q_len, int64_t block_rows) {
  if (q_len == 0) return {1, 1, 0, 0};
  const int64_t heads = std::clamp<int64_t>(block_rows / q_len, 1, group);
  const int64_t rows = std::min(q_len, block_rows);
  return {heads, rows, ceil_div(group, heads), ceil_div(q_len, rows)};
}

Tile tile_at(const TileShape& shape, int64_t group, int64_t q_len, int64_t index) {
  const int64_t head = index / shape.row_tiles * shape.heads;
  const int64_t row = index % shape.row_tiles * shape.rows;
  return {head, std::min(shape.heads, group - head), row, std::min(shape.rows, q_len - row)};
}

int64_t packed_block_floats(const Problem& problem, int64_t block_keys) {
  return problem.head_dim * score_stride + block_keys * row_stride(problem.head_dim_v);
}

ForwardCut cut_forward(const CpuPlan& plan, int64_t q_len, int64_t k_len) {
  const Problem& p = plan.problem;
  const CpuTuning& t = plan.tuning;
  ForwardCut cut{1, false, tile_shape(p.group(), q_len, t.forward_rows), 1, 0, 0};
  if (cut.tiles.count() == 0) return cut;
  const int64_t rows = p.group() * q_len;
  if (few_queries(cut.tiles, q_len)) {
    // Keys are read by 16.
    cut.in_place =
        rows <= t.rows_in_place && cut.tiles.count() == 1 && p.k.page_size % lane_pad == 0;
    if (cut.in_place) {
      const int64_t key_bytes = std::min(p.head_dim, p.head_dim_v) * bytes_of(p.dtype);
      cut.heads_k = std::clamp<int64_t>(
          std::min(ceil_div(t.bytes_in_place, key_bytes), t.forward_rows / rows), 1,
          plan.heads_in_place);
    }
    cut.chunks = std::max<int64_t>(ceil_div(k_len, t.split_keys), 1);
    if (cut.chunks > 1) cut.head_floats = padded(partial_floats(p, rows, cut.chunks));
  } else {
    cut.tiles = tile_shape(p.group(), q_len, plan.packed_rows);
    cut.pack_blocks = ceil_div(k_len, t.forward_keys);
    cut.head_floats = cut.pack_blocks * packed_block_floats(p, t.forward_keys);
  }
  return cut;
}

BiasTiles bias_tiles(const CpuPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t heads = p.score.bias_per_head ? p.q.heads : 1;
  return {(p.score.bias_per_batch ? p.batch : 1) * heads, heads,
          p.score.bias_per_row ? ceil_div(p.q.seqlen, plan.tuning.backward_rows) : 1,
          ceil_div(p.k.seqlen, plan.tuning.backward_keys)};
}

int64_t cut_backward(const CpuPlan& plan, int64_t k_len) {
  const int64_t wanted =
      std::clamp<int64_t>(backward_items / plan.problem.k.heads, 1, max_backward_chunks);
  return std::clamp<int64_t>(k_len / min_backward_chunk, 1, wanted);
}

int64_t chunk_keys(const CpuPlan& plan, int64_t k_len) {
  const int64_t block = plan.tuning.backward_keys;
  return ceil_div(ceil_div(k_len, cut_backward(plan, k_len)), block) * block;
}

bool long_chunk(const CpuPlan& plan, int64_t keys) {
  return plan.problem.dtype == float32 && keys > plan.tuning.settle_slabs * plan.tuning.slab_keys;
}

bool many_tiles(const CpuPlan& plan, int64_t q_len) {
  const CpuTuning& t = plan.tuning;
  return plan.problem.dtype == float32 &&
         tile_shape(plan.problem.group(), q_len, t.backward_rows).count() > t.settle_tiles;
}

ForwardScratch::ForwardScratch(Arena& arena, const CpuPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t rows = std::max(row_stride(plan.packed_rows), in_tiles(plan.packed_rows));
  q = arena.take<float>(
      std::max(p.head_dim * rows, plan.tuning.forward_rows * row_stride(p.head_dim)));
  s = arena.take<float>(rows * score_stride);
  o = arena.take<float>(rows * row_stride(p.head_dim_v));
  maximum = arena.take<float>(rows);
  next = arena.take<float>(rows);
  rescale = arena.take<float>(rows);
  sum = arena.take<float>(rows * lane_pad);
  base = arena.take<float>(rows);
  settled_sum = arena.take<double>(rows);
  settled = arena.take<float>(rows * row_stride(p.head_dim_v));
  rest = arena.take<float>(rows * row_stride(p.head_dim_v));
  block = arena.take<float>(packed_block_floats(p, plan.tuning.forward_keys));
  keep = arena.take<float>(score_stride);
  reach = arena.take<int64_t>(rows);
}

BackwardScratch::BackwardScratch(Arena& arena, const CpuPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t rows =
      std::max(row_stride(plan.tuning.backward_rows), in_tiles(plan.tuning.backward_rows));
  const int64_t keys = plan.tuning.backward_keys;
  const int64_t blocks =
      ceil_div(std::min(plan.tuning.slab_keys, std::max<int64_t>(p.k.seqlen, 1)), keys);
  const int64_t width = row_stride(p.head_dim);
  const int64_t width_v = row_stride(p.head_dim_v);
  q_t = arena.take<float>(p.head_dim * rows);
  q = arena.take<float>(rows * width);
  dout_t = arena.take<float>(p.head_dim_v * rows);
  dout = arena.take<float>(rows * width_v);
  this->p = arena.take<float>(rows * score_stride);
  ds = arena.take<float>(rows * score_stride);
  ds_pairs = arena.take<float>(p.dtype == bfloat16 ? ceil_div(rows, 2) * score_stride : 0);
  words_t =
      arena.take<float>(p.dtype == bfloat16 ? in_tiles(keys) * row_stride(ceil_div(rows, 2)) : 0);
  dq = arena.take<float>(rows * width);
  lse = arena.take<float>(rows);
  delta = arena.take<float>(rows);
  two_rows = arena.take<float>(2 * row_stride(longest_head_dim(p)));
  keep = arena.take<float>(score_stride);
  slope = arena.take<float>(score_stride);
  bias = arena.take<float>(p.wants.dbias ? rows * score_stride : 0);
  bias_rest = arena.take<float>(p.wants.dbias ? rows * score_stride : 0);
  reach = arena.take<int64_t>(rows);
  first_row = arena.take<int64_t>(keys);
  k_t = arena.take<float>(blocks * p.head_dim * score_stride);
  v_t = arena.take<float>(blocks * p.head_dim_v * score_stride);
  k = arena.take<float>(blocks * keys * width);
  const int64_t slab = (blocks - 1) * keys + in_tiles(keys);
  dk = arena.take<float>(slab * width);
  dv = arena.take<float>(slab * width_v);
  const int64_t settled = many_tiles(plan, p.q.seqlen) ? slab : 0;
  settled_dk = arena.take<float>(settled * width);
  dk_rest = arena.take<float>(settled * width);
  settled_dv = arena.take<float>(settled * width_v);
  dv_rest = arena.take<float>(settled * width_v);
}

ForwardShared::ForwardShared(Arena& arena, const CpuPlan& plan) {
  units = arena.take<int64_t>(plan.problem.batch + 1);
  items = arena.take<int64_t>(plan.problem.batch + 1);
  packs = arena.take<int64_t>(plan.problem.batch + 1);
  floats = arena.take<int64_t>(plan.problem.batch + 1);
  data = arena.take<char>(static_cast<int64_t>(plan.shared_bytes));
}

BackwardShared::BackwardShared(Arena& arena, const CpuPlan& plan) {
  const Problem& p = plan.problem;
  delta = arena.take<float>(p.q.heads * p.q.tokens);
  lse = arena.take<float>(p.q.heads * p.q.tokens);
  const int64_t sums = plan.backward_chunks * p.q.heads * p.q.tokens * p.head_dim;
  dq = arena.take<float>(sums);
  dq_rest = arena.take<float>(long_chunk(plan, chunk_keys(plan, p.k.seqlen)) ? sums : 0);
}

std::string to_text(const CpuPlan& plan) {
  const Problem& p = plan.problem;
  const CpuTuning& t = plan.tuning;
  const bool forward = p.pass == Pass::forward;
  std::string text = fmt::format(
      "pass: {}\ndevice: cpu\ndtype: {}\nbatch: {}\nheads: {} query, {} key\nhead_dim: {}, {} of "
      "v\n"
      "seqlen: {} query, {} key{}{}\nthreads: {}\n",
      forward ? "forward" : "backward", name(p.dtype), p.batch, p.q.heads, p.k.heads, p.head_dim,
      p.head_dim_v, p.q.seqlen, p.k.seqlen, p.q.packed || p.k.packed ? " (longest, packed)" : "",
      p.k.page_size > 0 ? fmt::format(", in pages of {}", p.k.page_size) : "", plan.threads);
  if (forward) {
    const ForwardCut cut = cut_forward(plan, p.q.seqlen, p.k.seqlen);
    text += fmt::format(
        "products: {}\ntile: {} rows x {} keys\ntiles of a key head: {}\nkey chunks: {}\nkey "
        "blocks packed: {}\n"
        "key heads of a unit: {}{}\nunits in work: {}{}\nshared bytes: {}\n",
        text_of(cut.in_place ? plan.arithmetic_in_place : plan.arithmetic),
        cut.pack_blocks > 0 ? plan.packed_rows : t.forward_rows, t.forward_keys, cut.tiles.count(),
        cut.chunks, cut.pack_blocks, cut.heads_k, cut.in_place ? ", read in place" : "",
        plan.units_in_work, plan.whole_units ? ", one for each thread" : "", plan.shared_bytes);
  } else {
    text +=
        fmt::format("products: {}\ntile: {} rows x {} keys\nkeys of a slab: {}\nkey chunks: {}\n",
                    text_of(plan.arithmetic), t.backward_rows, t.backward_keys, t.slab_keys,
                    plan.backward_chunks);
  }
  return text + fmt::format("scratch of a thread: {} bytes\nworkspace: {} bytes\n",
                            plan.thread_bytes, plan.workspace_bytes);
}

}  // namespace fa
