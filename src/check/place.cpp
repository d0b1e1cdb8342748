#include "check/place.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "check/option_tensors.hpp"

namespace fa::check {
namespace {

constexpr size_t boundary = 256;  // what device allocations are aligned to
constexpr size_t guard = 256;     // canaries between two pieces
constexpr size_t arena_least = 16 << 20;

size_t round_up(size_t bytes) { return (bytes + boundary - 1) / boundary * boundary; }

void for_each_tensor(ForwardArgs& a, const auto& f) {
  for (Tensor* t : {&a.q, &a.k, &a.v, &a.out, &a.lse}) f(*t);
}

void for_each_tensor(BackwardArgs& a, const auto& f) {
  for (Tensor* t : {&a.dout, &a.q, &a.k, &a.v, &a.out, &a.lse, &a.dq, &a.dk, &a.dv, &a.dlse}) {
    f(*t);
  }
  for (const OptionTensor& option : option_tensors()) {
    if (option.gradient) f(a.*option.gradient->argument);
  }
}

void for_each_tensor(Options& o, const auto& f) {
  for (Tensor* t : {&o.dropout_state, &o.cu_seqlens_q, &o.cu_seqlens_k, &o.seqused_q, &o.seqused_k,
                    &o.page_table}) {
    f(*t);
  }
  for (const OptionTensor& option : option_tensors()) f(o.*option.argument);
}

bool empty(const Tensor& t) {
  return std::any_of(t.shape, t.shape + t.ndim, [](int64_t extent) { return extent == 0; });
}

[[noreturn]] void fail_outside() {
  throw std::logic_error("a tensor lies outside of the memory given for the call");
}

}  // namespace

void MemoryList::add(std::span<std::byte> bytes) {
  const auto same = [&](const auto& piece) { return piece.data() == bytes.data(); };
  if (std::none_of(pieces_.begin(), pieces_.end(), same)) pieces_.push_back(bytes);
}

Place::Place(Accelerator& accelerator, Allocation allocation)
    : accelerator_(&accelerator), allocation_(allocation), stream_(accelerator.open_stream()) {}

void Place::run(const MemoryList& memory, const std::function<void(const Here&)>& calls) {
  if (accelerator_ == nullptr) return calls(Here(*this));
  lay_out(memory);
  upload();
  try {
    calls(Here(*this));
  } catch (...) {
    download();  // shows what was written before the error
    release_pieces();
    throw;
  }
  download();
  release_pieces();
}

void Place::lay_out(const MemoryList& memory) {
  pieces_.clear();
  size_t end = guard;
  for (const std::span<std::byte> host : memory.pieces()) {
    pieces_.push_back({host, end, nullptr, nullptr});
    end = round_up(end + host.size() + guard);
  }
  if (allocation_ == Allocation::each) {
    for (Piece& piece : pieces_) {
      piece.own = accelerator_->allocate(std::max<size_t>(piece.host.size(), 1));
      piece.device = piece.own.get();
    }
    return;
  }
  if (!arena_ || end > capacity_) {
    arena_.reset();
    capacity_ = std::max(arena_least, end + end / 2);
    arena_ = accelerator_->allocate(capacity_);
  }
  staging_.assign(end, std::byte{0xff});
  for (Piece& piece : pieces_) piece.device = arena_.get() + piece.offset;
}

void Place::upload() {
  if (allocation_ == Allocation::each) {
    for (const Piece& piece : pieces_) {
      accelerator_->upload(piece.device, piece.host.data(), piece.host.size(), stream_.get());
    }
    return;
  }
  for (const Piece& piece : pieces_) {
    std::copy(piece.host.begin(), piece.host.end(), staging_.data() + piece.offset);
  }
  accelerator_->upload(arena_.get(), staging_.data(), staging_.size(), stream_.get());
}

void Place::download() {
  if (allocation_ == Allocation::each) {
    for (const Piece& piece : pieces_) {
      accelerator_->download(piece.host.data(), piece.device, piece.host.size(), stream_.get());
    }
    return accelerator_->synchronize(stream_.get());
  }
  accelerator_->download(staging_.data(), arena_.get(), staging_.size(), stream_.get());
  accelerator_->synchronize(stream_.get());
  for (const Piece& piece : pieces_) {
    std::copy_n(staging_.data() + piece.offset, piece.host.size(), piece.host.data());
  }
  expect_canaries();
}

void Place::expect_canaries() const {
  size_t end = 0;
  const auto expect = [this](size_t begin, size_t until) {
    for (size_t i = begin; i < until; ++i) {
      if (staging_[i] != std::byte{0xff}) {
        throw std::runtime_error("written outside of all tensors, on the device");
      }
    }
  };
  for (const Piece& piece : pieces_) {
    expect(end, piece.offset);
    end = piece.offset + piece.host.size();
  }
  expect(end, staging_.size());
}

void Place::release_pieces() {
  if (allocation_ == Allocation::arena) return;
  accelerator_->synchronize(stream_.get());
  pieces_.clear();
}

std::byte* Place::mirrored(const void* host) const {
  const auto* p = static_cast<const std::byte*>(host);
  for (const Piece& piece : pieces_) {
    const std::byte* begin = piece.host.data();
    if (p >= begin && p <= begin + piece.host.size()) return piece.device + (p - begin);
  }
  return nullptr;
}

Tensor Place::Here::operator()(const Tensor& tensor) const {
  Tensor t = tensor;
  if (place_.accelerator_ == nullptr || !t.given()) return t;
  t.device = place_.accelerator_->device();
  if (t.data == nullptr) return t;
  t.data = place_.mirrored(t.data);
  // One without elements may point anywhere.
  if (t.data == nullptr && !empty(t)) fail_outside();
  return t;
}

void* Place::Here::operator()(void* host) const {
  if (place_.accelerator_ == nullptr) return host;
  void* data = place_.mirrored(host);
  if (data == nullptr) fail_outside();
  return data;
}

ForwardArgs Place::Here::operator()(ForwardArgs args) const {
  for_each_tensor(args, [this](Tensor& t) { t = (*this)(t); });
  return args;
}

BackwardArgs Place::Here::operator()(BackwardArgs args) const {
  for_each_tensor(args, [this](Tensor& t) { t = (*this)(t); });
  return args;
}

Options Place::Here::operator()(Options options) const {
  for_each_tensor(options, [this](Tensor& t) { t = (*this)(t); });
  return options;
}

}  // namespace fa::check
