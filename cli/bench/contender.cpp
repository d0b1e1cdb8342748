#include "bench/contender.hpp"

#include <chrono>
#include <utility>

#include "verify/verify.hpp"

namespace fa::cli {

Contender::Contender(Cell cell, Buffers& buffers, int threads)
    : cell_(std::move(cell)),
      buffers_(buffers),
      q_shape_{cell_.batch, cell_.seqlen_q, cell_.heads_q, cell_.head_dim},
      k_shape_{cell_.batch, cell_.seqlen_k, cell_.heads_k, cell_.head_dim},
      out_(cell_.dtype, {q_shape_.begin(), q_shape_.end()}),
      lse_(float32, {cell_.batch, cell_.heads_q, cell_.seqlen_q}) {
  options_.causal = cell_.causal;
  options_.num_threads = threads;
}

Tensor Contender::view(std::byte* data, const std::array<int64_t, 4>& shape) const {
  return {data, {}, 4, cell_.dtype, shape.data(), nullptr, 0};
}

BackwardArgs Contender::next_args() {
  const auto shared = [&](Buffers::Use use) { return buffers_.data(cell_.dtype, use); };
  BackwardArgs args;
  args.q = queries(shared(Buffers::q));
  args.out = out_.tensor();
  args.lse = lse_.tensor();
  if (cell_.work == Work::decode) {
    std::byte* place = buffers_.next_place(cell_.key_bytes());
    args.k = keys(place);
    args.v = keys(place + cell_.key_bytes() / 2);
    return args;
  }
  args.k = keys(shared(Buffers::k));
  args.v = keys(shared(Buffers::v));
  if (cell_.work == Work::forward) return args;
  args.dout = queries(shared(Buffers::dout));
  args.dq = queries(shared(Buffers::dq));
  args.dk = keys(shared(Buffers::dk));
  args.dv = keys(shared(Buffers::dv));
  return args;
}

void Contender::call(const BackwardArgs& args) {
  if (cell_.work == Work::backward) {
    backward(args, options_);
  } else {
    forward({args.q, args.k, args.v, args.out, args.lse}, options_);
  }
}

std::vector<Verdict> Contender::verify() {
  const BackwardArgs args = next_args();
  if (cell_.work == Work::backward) {
    forward({args.q, args.k, args.v, args.out, args.lse}, options_);
  }
  call(args);
  return verify_sample({args, options_}, {.rows = 32});
}

double Contender::time() {
  using Clock = std::chrono::steady_clock;
  constexpr double least = 5e-3;
  const auto start = Clock::now();
  for (int calls = 1;; ++calls) {
    call(next_args());
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds >= least) return seconds / calls;
  }
}

}  // namespace fa::cli
