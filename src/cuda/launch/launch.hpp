// Parts of launches that both passes have: parameters made of a call.
#pragma once

#include <cstdint>

#include "cuda/runtime/kernel_store.hpp"
#include "kernels/common/params.h"
#include "plan/cuda/launch.hpp"
#include "problem/problem.hpp"

namespace fa::cuda {

kernel::View view(const Rows& rows);

// The parts of the parameters that both passes have.
kernel::Operands operands(const Call& call);
kernel::Lengths lengths(const Side& side, const int32_t* cu_seqlens, const int32_t* seqused);
kernel::Heads heads(const Problem& p);
kernel::ScoreArgs score_args(const Problem& p, const Call& call);
kernel::Window window(const Problem& p);
kernel::DropoutArgs dropout_args(const Problem& p, const Call& call);
/// The order of a launch whose blocks take the tiles of `heads` heads of each sequence. The tiles
/// of `section` heads alternate.
kernel::Order order(const Problem& p, int64_t heads, int tiles, int section = 1);

/// Parameters of a pass with these parts, all but the order.
template <typename Params>
Params params_of(const Problem& p, const Call& call) {
  Params params{};
  params.operands = operands(call);
  params.rows = lengths(p.q, call.cu_seqlens_q, call.seqused_q);
  params.keys = lengths(p.k, call.cu_seqlens_k, call.seqused_k);
  params.heads = heads(p);
  params.score = score_args(p, call);
  params.window = window(p);
  params.dropout = dropout_args(p, call);
  return params;
}

/// A launch's own number, for its kernel::TileCounter: none that memory holds by chance, since they
/// begin anywhere in 64 bits.
unsigned long long number_of_launch();

/// `params`: what the kernel's only parameter is.
void launch(const LoadedKernel& kernel, const KernelSpec& spec, Grid grid, const void* params,
            void* stream, bool dependent = false);

}  // namespace fa::cuda
