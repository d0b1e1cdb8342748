#include "problem/argument.hpp"

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

struct Dim {
  int64_t stride;
  int64_t extent;
};

/// The dimensions that matter, largest stride first.
struct Dims {
  std::array<Dim, View::max_dims> dim;
  size_t count = 0;
};
Dims by_stride(const Tensor& tensor, std::span<const int64_t> strides) {
  Dims dims;
  for (int d = 0; d < tensor.ndim; ++d) {
    if (tensor.shape[d] > 1) dims.dim[dims.count++] = {std::abs(strides[d]), tensor.shape[d]};
  }
  std::sort(dims.dim.begin(), dims.dim.begin() + dims.count,
            [](Dim a, Dim b) { return a.stride > b.stride; });
  return dims;
}

// No address space holds more; sums of reaches stay far from 2^63.
constexpr int64_t farthest = int64_t{1} << 56;

/// Whether two views of the same strides, the second `delta` elements behind the first, have an
/// element in common. Exact where every stride spans what lies inside it, as in any permuted dense
/// tensor: then only the two nearest multiples of a stride can make up `delta`.
bool meet(int64_t delta, const Dim* a, const Dim* b, size_t dims) {
  if (dims == 0) return delta == 0;
  const int64_t below = delta / a->stride - (delta % a->stride < 0);
  for (const int64_t k : {below, below + 1}) {
    if (k < a->extent && -k < b->extent && meet(delta - k * a->stride, a + 1, b + 1, dims - 1)) {
      return true;
    }
  }
  return false;
}

}  // namespace

Argument::Argument(const char* name, const Tensor& tensor, Device device, Use use, Data data)
    : name_(name), tensor_(tensor), use_(use) {
  if (!tensor.given()) fail(Status::invalid_argument, name, "is missing");
  if (tensor.ndim < 0 || tensor.ndim > View::max_dims) {
    fail(Status::invalid_argument, name, "has {} dimensions; allowed are 0 to {}", tensor.ndim,
         View::max_dims);
  }
  if (tensor.device != device) {
    fail(Status::invalid_argument, name, "lies on {}, but q on {}; all tensors must share a device",
         device_text(tensor.device), device_text(device));
  }
  int64_t dense_stride = bytes_of(tensor.dtype) > 0 ? 1 : 0;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.shape[d] < 0) {
      fail(Status::invalid_argument, name, "has the shape {}; extents are never negative",
           shape_text());
    }
    empty_ = empty_ || tensor.shape[d] == 0;
    strides_[d] = tensor.strides != nullptr ? tensor.strides[d] : dense_stride;
    if (__builtin_mul_overflow(dense_stride, std::max<int64_t>(tensor.shape[d], 1),
                               &dense_stride)) {
      fail(Status::invalid_argument, name, "has the shape {}: more than 2^63 elements",
           shape_text());
    }
  }
  elements_ = empty_ ? 0 : dense_stride;
  if (empty_) return;
  if (tensor.ndim > 0 && tensor.shape[tensor.ndim - 1] > 1 && strides_[tensor.ndim - 1] != 1) {
    fail(Status::invalid_argument, name, "has the strides {}; the last must be 1", strides_text());
  }

  int64_t low = 0;
  int64_t high = 0;
  for (int d = 0; d < tensor.ndim; ++d) {
    if (tensor.shape[d] == 1) continue;
    int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[d] - 1, strides_[d], &reach) || reach > farthest ||
        reach < -farthest) {
      fail(Status::invalid_argument, name, "has the strides {}: it reaches beyond 2^56 elements",
           strides_text());
    }
    (reach < 0 ? low : high) += reach;
  }
  if (use == Use::output) need_distinct_elements();
  if (tensor.data == nullptr) {
    if (data == Data::required) fail(Status::invalid_argument, name, "has no data (null pointer)");
    return;
  }
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
  const int64_t bytes = bytes_of(tensor.dtype);
  if (bytes > 0 && reinterpret_cast<uintptr_t>(data_) % bytes != 0) {
    fail(Status::invalid_argument, name, "starts at {}, which is no multiple of its {} bytes",
         static_cast<const void*>(data_), bytes);
  }
  low_ = data_ + low * bytes;
  high_ = data_ + (high + 1) * bytes;
}

void Argument::need_distinct_elements() const {
  const Dims dims = by_stride(tensor_, strides_);
  for (size_t d = 0; d < dims.count; ++d) {
    int64_t inside = 0;
    for (size_t e = d + 1; e < dims.count; ++e) {
      inside += (dims.dim[e].extent - 1) * dims.dim[e].stride;
    }
    if (dims.dim[d].stride <= inside) {
      fail(Status::invalid_argument, name_,
           "has the shape {} and the strides {}: elements of an output may not share memory",
           shape_text(), strides_text());
    }
  }
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
    if (tensor_.shape[d] > 1) bits |= static_cast<uint64_t>(strides_[d] * bytes_of(dtype()));
  }
  return static_cast<int32_t>(bits & (~bits + 1));
}

bool Argument::dense() const { return high_ - low_ == elements_ * bytes_of(dtype()); }

bool Argument::same_view(const Argument& other) const {
  return data_ == other.data_ && dtype() == other.dtype() && strides_ == other.strides_ &&
         std::equal(tensor_.shape, tensor_.shape + ndim(), other.tensor_.shape,
                    other.tensor_.shape + other.ndim());
}

bool Argument::overlaps(const Argument& other) const {
  if (low_ == nullptr || other.low_ == nullptr) return false;
  if (high_ <= other.low_ || other.high_ <= low_) return false;
  if (low_ == other.low_) return true;
  if (dense() && (covers(other.low_) || covers(other.high_ - 1))) return true;
  if (other.dense() && (other.covers(low_) || other.covers(high_ - 1))) return true;
  const Dims dims = by_stride(tensor_, strides_);
  const Dims other_dims = by_stride(other.tensor_, other.strides_);
  const auto equal = [](Dim a, Dim b) { return a.stride == b.stride; };
  const int64_t bytes = bytes_of(dtype());
  if (bytes != bytes_of(other.dtype()) || dims.count != other_dims.count ||
      !std::equal(dims.dim.begin(), dims.dim.begin() + dims.count, other_dims.dim.begin(), equal) ||
      (other.low_ - low_) % bytes != 0) {
    return false;  // cannot be seen
  }
  return meet((other.low_ - low_) / bytes, dims.dim.data(), other_dims.dim.data(), dims.count);
}

Rows Argument::rows(int batch_dim, int row_dim, int head_dim) const {
  const auto stride_of = [&](int dim) {
    return dim < 0 || tensor_.shape[dim] <= 1 ? 0 : strides_[dim];
  };
  return {data_, dtype(), stride_of(batch_dim), stride_of(row_dim), stride_of(head_dim)};
}

void need_disjoint(std::span<const Argument> arguments,
                   std::initializer_list<std::pair<const char*, const char*>> in_place) {
  for (size_t a = 0; a < arguments.size(); ++a) {
    for (size_t b = 0; b < arguments.size(); ++b) {
      const Argument& output = arguments[a];
      const Argument& other = arguments[b];
      if (a == b || !output.output() || (other.output() && b < a)) continue;
      if (!output.overlaps(other)) continue;
      const bool allowed = output.same_view(other) &&
                           std::any_of(in_place.begin(), in_place.end(), [&](const auto& pair) {
                             return std::string_view(pair.first) == output.name() &&
                                    std::string_view(pair.second) == other.name();
                           });
      if (!allowed) {
        fail(Status::invalid_argument, output.name(),
             "shares memory with {}; an output needs memory of its own", other.name());
      }
    }
  }
}

}  // namespace fa
