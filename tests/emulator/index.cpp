// Device code for editors and clang-tidy: every kernel as a host's compiler reads it, instantiated
// with a plain Config and with one that has every option. It is compiled and never run. The build
// includes emulator.hpp before each file, so that a header of src/kernels reads alone, too.
#include "pass/bias.cuh"
#include "pass/combine.cuh"
#include "pass/finish.cuh"
#include "pass/join_shares.cuh"
#include "pass/merge.cuh"
#include "pass/prepare.cuh"
#include "pass/ranges.cuh"
#include "pass/sinks.cuh"
#include "sm80/backward.cuh"
#include "sm80/forward.cuh"
#include "sm90/backward.cuh"
#include "sm90/forward.cuh"

namespace fa::index {

using kernel::Number;

/// A forward pass without options, as the plan cuts it for an A100.
struct PlainForward : sm80::ForwardConfig {
  static constexpr Number element = Number::bfloat16;
  static constexpr int head_dim = 128, head_dim_v = 128, value_columns = 128;
  static constexpr int warps = 4, warp_rows = 32, keys = 32, stages = 2;
};

/// With every option; two groups of warps take turns.
struct FullForward : sm80::ForwardConfig {
  static constexpr Number element = Number::float16;
  static constexpr int head_dim = 72, head_dim_v = 40, value_columns = 24, alignment = 2;
  static constexpr int warps = 8, warp_rows = 16, keys = 64, stages = 3;
  static constexpr int groups = 2, query_slices = 2;
  static constexpr bool stale_maximum = true, split = true;
  static constexpr bool packed_q = true, packed_k = true, used_q = true, used_k = true;
  static constexpr bool window_left = true, window_right = true, positive_scale = false;
  static constexpr bool softcap = true, alibi = true, dropout = true;
  static constexpr Number bias = Number::float32, sinks = Number::float32;
};

/// The same on an H100.
struct PlainHopper : sm90::ForwardConfig {
  static constexpr Number element = Number::bfloat16;
  static constexpr int head_dim = 128, head_dim_v = 128;
  static constexpr int groups = 2, keys = 128, key_stages = 2, value_stages = 2;
  static constexpr int loader_registers = 24, group_registers = 240;
  static constexpr int shared_bytes = 164160;
};

struct FullHopper : sm90::ForwardConfig {
  static constexpr Number element = Number::float16;
  static constexpr int head_dim = 72, head_dim_v = 136;
  static constexpr int groups = 3, keys = 80, key_stages = 2, value_stages = 3, query_stages = 2;
  static constexpr int loader_registers = 32, group_registers = 160;
  static constexpr int shared_bytes = 305504;
  static constexpr bool staged_out = true, split = true, claims = true;
  static constexpr bool packed_q = true, packed_k = true, used_q = true, used_k = true;
  static constexpr bool window_left = true, window_right = true, positive_scale = false;
  static constexpr bool softcap = true, alibi = true, dropout = true;
  static constexpr Number bias = Number::float32, sinks = Number::float32;
};

/// Few rows of an H100 that share out the keys of a cache in pages; and the same of an A100.
struct CacheHopper : PlainHopper {
  static constexpr int groups = 1, key_stages = 3, value_stages = 3, page_rows = 16;
  static constexpr int loader_registers = 152, shared_bytes = 213344;
  static constexpr bool turns = false, claims = true, shares = true, side_by_side = true;
  static constexpr bool paged = true, used_k = true;
};
struct CacheForward : PlainForward {
  static constexpr bool paged = true, used_k = true;
};

struct PlainBackward : sm80::BackwardConfig {
  static constexpr Number element = Number::bfloat16;
  static constexpr int head_dim = 64, head_dim_v = 64, depth = 64, width = 64;
  static constexpr int warps = 4, rows = 64, keys = 64, row_warps = 2, column_warps = 2;
  static constexpr int shared_bytes = 66560;
};

struct FullBackward : sm80::BackwardConfig {
  static constexpr Number element = Number::float16;
  static constexpr int head_dim = 72, head_dim_v = 40, depth = 96, width = 64, alignment = 8;
  static constexpr int warps = 4, rows = 64, keys = 64, row_warps = 2, column_warps = 2;
  static constexpr int stages = 1, key_slices = 2, value_slices = 2, shared_bytes = 57856;
  static constexpr bool query_last = true, deterministic = true;
  static constexpr bool packed_q = true, packed_k = true, used_q = true, used_k = true;
  static constexpr bool window_left = true, window_right = true, positive_scale = false;
  static constexpr bool softcap = true, alibi = true, dropout = true;
  static constexpr Number bias = Number::float32, sinks = Number::float32;
  static constexpr Number dbias = Number::float32, dsinks = Number::float32;
};

/// The three ways of a bias's gradient: a number for each row, shared between heads or not, or for
/// all rows of a key, which is FullBackward's.
struct OwnBias : FullBackward {
  static constexpr bool bias_per_row = true;
};
struct SharedBias : OwnBias {
  static constexpr bool bias_shared = true;
};

/// The backward kernels of an H100.
struct PlainHopperBackward : sm90::BackwardConfig {
  static constexpr Number element = Number::bfloat16;
  static constexpr int head_dim = 128, head_dim_v = 128, depth = 128, width = 128;
  static constexpr int rows = 64, keys = 128, shared_bytes = 197952;
  static constexpr bool clears_sums = true;
};

/// Who adds to dQ first stores, and dK and dV go out by whole lines.
struct MaskedHopperBackward : sm90::BackwardConfig {
  static constexpr Number element = Number::bfloat16;
  static constexpr int head_dim = 64, head_dim_v = 64, depth = 64, width = 64;
  static constexpr int rows = 128, keys = 128, key_stages = 2, value_stages = 2;
  static constexpr int shared_bytes = 231776;
  static constexpr bool window_right = true, first_stores = true;
};

struct FullHopperBackward : sm90::BackwardConfig {
  static constexpr Number element = Number::float16;
  static constexpr int head_dim = 72, head_dim_v = 64, depth = 128, width = 64;
  static constexpr int rows = 64, keys = 128, key_stages = 1, alignment = 8, shared_bytes = 165184;
  static constexpr bool deterministic = true;
  static constexpr bool packed_q = true, packed_k = true, used_q = true, used_k = true;
  static constexpr bool window_left = true, window_right = true, positive_scale = false;
  static constexpr bool softcap = true, alibi = true, dropout = true;
  static constexpr Number bias = Number::float32, sinks = Number::float32;
  static constexpr Number dbias = Number::float32, dsinks = Number::float32;
};

/// Main: of the family whose shapes the others are given.
template <class Main, class Shapes>
struct BackwardKernels {
  static void run(const Main::Params& main, const kernel::BackwardParams& p) {
    pass::FinishBias<Shapes>::run(p);
    pass::MeasureValues<Shapes>::run(p);
    pass::Prepare<Shapes>::run(p);
    Main::run(main);
    pass::FinishRows<Shapes>::run(p);
    pass::FinishKeys<Shapes>::run(p);
    pass::SinkGradients<Shapes>::run(p);
  }
};

}  // namespace fa::index

template struct fa::sm80::Forward<fa::index::PlainForward>;
template struct fa::sm80::Forward<fa::index::FullForward>;
template struct fa::sm90::Forward<fa::index::PlainHopper>;
template struct fa::sm90::Forward<fa::index::FullHopper>;
template struct fa::sm80::Forward<fa::index::CacheForward>;
template struct fa::sm90::Forward<fa::index::CacheHopper>;
template struct fa::pass::JoinShares<fa::index::PlainForward>;
template struct fa::pass::Combine<fa::index::PlainForward>;
template struct fa::pass::Combine<fa::index::FullForward>;
template struct fa::pass::Merge<fa::index::PlainForward>;
template struct fa::index::BackwardKernels<fa::sm80::Backward<fa::index::PlainBackward>,
                                           fa::sm80::BackwardShapes<fa::index::PlainBackward>>;
template struct fa::index::BackwardKernels<fa::sm80::Backward<fa::index::FullBackward>,
                                           fa::sm80::BackwardShapes<fa::index::FullBackward>>;
template struct fa::index::BackwardKernels<fa::sm80::Backward<fa::index::OwnBias>,
                                           fa::sm80::BackwardShapes<fa::index::OwnBias>>;
template struct fa::index::BackwardKernels<fa::sm80::Backward<fa::index::SharedBias>,
                                           fa::sm80::BackwardShapes<fa::index::SharedBias>>;
template struct fa::index::BackwardKernels<fa::sm90::Backward<fa::index::PlainHopperBackward>,
                                           fa::sm90::BackwardSums<fa::index::PlainHopperBackward>>;
template struct fa::index::BackwardKernels<fa::sm90::Backward<fa::index::MaskedHopperBackward>,
                                           fa::sm90::BackwardSums<fa::index::MaskedHopperBackward>>;
template struct fa::index::BackwardKernels<fa::sm90::Backward<fa::index::FullHopperBackward>,
                                           fa::sm90::BackwardSums<fa::index::FullHopperBackward>>;
