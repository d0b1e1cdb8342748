// How the warp that loads fills a stage of a pipe: by the copy engine, or by loads and stores of
// its own where rows are not aligned to 16 bytes.
#pragma once

#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/warp_group.cuh"

namespace fa::tile {

using u32 = unsigned;

/// `landed`: an mbarrier of this warp alone, for copies of which it makes some rows 0 before
/// anybody else may read them.
struct StageFiller {
  u32 landed;
  u32 parity = 0;

  explicit __device__ StageFiller(u32 barrier) : landed(barrier) {}

  /// The next stage. begin(stage, barrier): begins copies by the copy engine, which one lane does.
  /// copy(stage): copies by all lanes, without the engine. `clears`: clear(stage) sets some rows to
  /// 0, whatever the tensor holds there.
  template <bool by_engine, typename Pipe, typename Begin, typename Copy, typename Clear>
  __device__ void fill(Pipe& pipe, int lane, bool clears, const Begin& begin, const Copy& copy,
                       const Clear& clear) {
    fill_by_lanes<by_engine>(
        pipe, lane, clears,
        [&](u32 stage, u32 barrier) {
          if (ptx::elect()) begin(stage, barrier);
        },
        copy, clear);
  }
  /// The same, where all lanes begin copies.
  template <bool by_engine, typename Pipe, typename Begin, typename Copy, typename Clear>
  __device__ void fill_by_lanes(Pipe& pipe, int lane, bool clears, const Begin& begin,
                                const Copy& copy, const Clear& clear) {
    pipe.wait_until_empty();
    const u32 stage = pipe.stage();
    if constexpr (by_engine) {
      begin(stage, clears ? landed : pipe.full());
      __syncwarp();
      if (clears) {
        ptx::mbarrier_wait(landed, parity);
        parity ^= 1;
        clear(stage);
        end_stores(pipe.full(), lane);
      }
    } else {
      copy(stage);
      __syncwarp();
      if (clears) clear(stage);
      end_stores(pipe.full(), lane);
    }
    pipe.next();
  }

 private:
  /// The groups' products see what this warp has stored.
  static __device__ void end_stores(u32 barrier, int lane) {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  }
};

}  // namespace fa::tile
