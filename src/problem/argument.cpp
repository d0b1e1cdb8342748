#include "problem/argument.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace fa {

namespace {

std::string device_text(Device device) {
  const std::string type = device.type == cpu_device ? "cpu"
                           : device.type == cuda_device
                               ? "cuda"
                               : fmt::format("device type {}", device.type);
  return fmt::format("{}:{}", type, device.id);
}

// No address space is larger, and sums of such reaches in bytes stay far from 2^63.
constexpr int64_t farthest = int64_t{1} << 56;

}  // namespace

Argument::Argument(const char* name, const Tensor& tensor, Device device, Use use, Data data,
                   std::initializer_list<DType> allowed)
    : name_(name), tensor_(tensor), use_(use) {
  if (!tensor.given()) fail(Status::invalid_argument, name, "is missing");
  need_dtype(allowed);
  if (tensor.ndim < 0 || tensor.ndim > View::max_dims) {
    fail(Status::invalid_argument, name, "has {} dimensions; allowed are 0 to {}", tensor.ndim,
         int{View::max_dims});
  }
  if (tensor.device != device) {
    fail(Status::invalid_argument, name, "lies on {}, but q on {}; all tensors must share a device",
         device_text(tensor.device), device_text(device));
  }
  int64_t dense_stride = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.shape[d] < 0) {
      fail(Status::invalid_argument, name, "has the shape {}; extents are never negative",
           shape_text());
    }
    empty_ = empty_ || tensor.shape[d] == 0;
    // mutant "strides": tensor.strides != nullptr => false
    strides_[d] = tensor.strides != nullptr ? tensor.strides[d] : dense_stride;
    if (__builtin_mul_overflow(dense_stride, std::max<int64_t>(tensor.shape[d], 1),
                               &dense_stride)) {
      fail(Status::invalid_argument, name, "has the shape {}: more than 2^63 elements",
           shape_text());
    }
  }
  if (empty_) return;
  if (tensor.ndim > 0 && tensor.shape[tensor.ndim - 1] > 1 && strides_[tensor.ndim - 1] != 1) {
    fail(Status::invalid_argument, name, "has the strides {}; the last must be 1", strides_text());
  }
  need_reach();
  if (use == Use::output) need_distinct_elements();
  if (tensor.data == nullptr) {
    if (data == Data::required) fail(Status::invalid_argument, name, "has no data (null pointer)");
    return;
  }
  need_address();
}

/// low_ and high_, in elements.
void Argument::need_reach() {
  for (int d = 0; d < tensor_.ndim; ++d) {
    if (tensor_.shape[d] == 1) continue;
    int64_t reach = 0;
    const bool overflows = __builtin_mul_overflow(tensor_.shape[d] - 1, strides_[d], &reach);
    if (!overflows && reach <= farthest && reach >= -farthest) {
      (reach < 0 ? low_ : high_) += reach;
      if (high_ - low_ <= farthest) continue;
    }
    fail(Status::invalid_argument, name_, "has the strides {}: it reaches beyond 2^56 elements",
         strides_text());
  }
}

/// Addresses are integers here, until the whole tensor is known to lie between 0 and 2^64.
void Argument::need_address() {
  const auto start = reinterpret_cast<uintptr_t>(tensor_.data);
  const int64_t bytes = bytes_of(dtype());
  uintptr_t first = 0;
  if (tensor_.byte_offset > INT64_MAX ||
      __builtin_add_overflow(start, tensor_.byte_offset, &first)) {
    fail(Status::invalid_argument, name_,
         "has the byte_offset {}, which leads from {} out of the address space",
         tensor_.byte_offset, tensor_.data);
  }
  if (first % static_cast<uintptr_t>(bytes) != 0) {
    fail(Status::invalid_argument, name_, "starts at 0x{:x}, which is no multiple of its {} bytes",
         first, bytes);
  }
  if (__builtin_add_overflow(first, low_ * bytes, &footprint_.begin) ||
      __builtin_add_overflow(first, (high_ + 1) * bytes, &footprint_.end)) {
    fail(Status::invalid_argument, name_,
         "has the shape {} and the strides {}, which lead from 0x{:x} out of the address space",
         shape_text(), strides_text(), first);
  }
  footprint_.run = bytes;
  // mutant "byte_offset": tensor_.byte_offset => 0
  data_ = static_cast<char*>(tensor_.data) + tensor_.byte_offset;
}

Footprint Argument::footprint() const {
  Footprint f = footprint_;
  const int64_t bytes = bytes_of(dtype());
  for (int d = 0; d < ndim(); ++d) {
    if (tensor_.shape[d] > 1 && strides_[d] != 0) {
      f.add(std::abs(strides_[d]) * bytes, tensor_.shape[d] - 1);
    }
  }
  return f;
}

void Argument::need_distinct_elements() const {
  Footprint elements;
  elements.run = 1;
  bool distinct = true;
  for (int d = 0; d < ndim(); ++d) {
    if (tensor_.shape[d] <= 1) continue;
    distinct = distinct && strides_[d] != 0;
    elements.add(std::abs(strides_[d]), tensor_.shape[d] - 1);
  }
  if (distinct && sharing_within(elements) == Sharing::none) return;
  fail(Status::invalid_argument, name_,
       "has the shape {} and the strides {}: elements of an output may not share memory",
       shape_text(), strides_text());
}

std::string Argument::shape_text() const {
  return fmt::format("[{}]", fmt::join(tensor_.shape, tensor_.shape + tensor_.ndim, ", "));
}

std::string Argument::strides_text() const {
  return fmt::format("[{}]", fmt::join(strides_.begin(), strides_.begin() + tensor_.ndim, ", "));
}

void Argument::need_dtype(std::initializer_list<DType> allowed) const {
  if (std::find(allowed.begin(), allowed.end(), tensor_.dtype) != allowed.end()) return;
  std::vector<std::string> names;  // of the error's text
  for (const DType dtype : allowed) {
    if (std::find(names.begin(), names.end(), fa::name(dtype)) == names.end()) {
      names.push_back(fa::name(dtype));
    }
  }
  fail(Status::wrong_type, name_, "has dtype {}; allowed: {}", fa::name(tensor_.dtype),
       fmt::join(names, ", "));
}

void Argument::need_dims(int ndim, const char* expected) const {
  if (tensor_.ndim == ndim) return;
  fail(Status::invalid_argument, name_, "has the shape {}; expected {} dimensions, {}",
       shape_text(), ndim, expected);
}

void Argument::need_shape(std::initializer_list<int64_t> shape, const char* expected) const {
  if (static_cast<size_t>(tensor_.ndim) == shape.size() &&
      std::equal(shape.begin(), shape.end(), tensor_.shape)) {
    return;
  }
  fail(Status::invalid_argument, name_, "has the shape {}; expected {} = [{}]", shape_text(),
       expected, fmt::join(shape, ", "));
}

int32_t Argument::alignment() const {
  uint64_t bits = 16 | reinterpret_cast<uintptr_t>(data_);
  for (int d = 0; d + 1 < tensor_.ndim; ++d) {
    if (tensor_.shape[d] <= 1) continue;
    const int64_t stride = strides_[d] * bytes_of(dtype());
    bits |= static_cast<uint64_t>(stride);
    if (stride < 0 || stride >= int64_t{1} << 40) bits |= 8;
  }
  return static_cast<int32_t>(bits & (~bits + 1));
}

bool Argument::same_view(const Argument& other) const {
  return data_ == other.data_ && dtype() == other.dtype() && strides_ == other.strides_ &&
         std::equal(tensor_.shape, tensor_.shape + ndim(), other.tensor_.shape,
                    other.tensor_.shape + other.ndim());
}

Sharing Argument::sharing(const Argument& other) const {
  if (data_ == nullptr || other.data_ == nullptr || !may_share(footprint_, other.footprint_)) {
    return Sharing::none;
  }
  return fa::sharing(footprint(), other.footprint());
}

Rows Argument::rows(int batch_dim, int row_dim, int head_dim) const {
  const auto stride_of = [&](int dim) {
    return dim < 0 || tensor_.shape[dim] <= 1 ? 0 : strides_[dim];
  };
  return {data_, dtype(), stride_of(batch_dim), stride_of(row_dim), stride_of(head_dim)};
}

void need_known_device(const char* name, const Tensor& tensor) {
  if (tensor.given() && tensor.device.type != cpu_device && tensor.device.type != cuda_device) {
    fail(Status::unsupported, name, "lies on device type {}; there are the CPU (1) and CUDA (2)",
         tensor.device.type);
  }
}

void need_disjoint(std::span<const Argument> arguments,
                   std::initializer_list<std::pair<const char*, const char*>> in_place) {
  for (size_t a = 0; a < arguments.size(); ++a) {
    for (size_t b = 0; b < arguments.size(); ++b) {
      const Argument& output = arguments[a];
      const Argument& other = arguments[b];
      if (a == b || !output.output() || (other.output() && b < a)) continue;
      const Sharing found = output.sharing(other);
      if (found == Sharing::none) continue;
      const bool allowed = output.same_view(other) &&
                           std::any_of(in_place.begin(), in_place.end(), [&](const auto& pair) {
                             return std::string_view(pair.first) == output.name() &&
                                    std::string_view(pair.second) == other.name();
                           });
      if (allowed) continue;
      if (found == Sharing::undecided) {
        fail(Status::invalid_argument, output.name(),
             "lies between the elements of {}, by strides that are too unlike to tell whether they "
             "share memory; an output needs memory of its own",
             other.name());
      }
      fail(Status::invalid_argument, output.name(),
           "shares memory with {}; an output needs memory of its own", other.name());
    }
  }
}

}  // namespace fa
