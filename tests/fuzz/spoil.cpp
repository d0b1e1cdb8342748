#include "spoil.hpp"

#include <cfloat>
#include <cmath>
#include <cstdint>

namespace fa::fuzz {
namespace {

constexpr int64_t numbers[] = {-1,
                               0,
                               1,
                               2,
                               7,
                               8,
                               4096,
                               4097,
                               INT32_MIN,
                               INT32_MAX,
                               int64_t{1} << 32,
                               int64_t{1} << 56,
                               INT64_MIN,
                               INT64_MAX};
constexpr double reals[] = {NAN, INFINITY, -INFINITY, -0.0, -1, 1, DBL_MAX, FLT_MAX, DBL_MIN};

class Spoiler {
 public:
  Spoiler(Problem& problem, FuzzedDataProvider& data) : problem_(problem), data_(data) {}

  void mistake() {
    if (data_.ConsumeIntegralInRange(0, 3) == 0) {
      mistake_in_structs();
    } else {
      mistake_in_tensor();
    }
  }

  /// One tensor in the memory of another.
  void alias() {
    Name from = any_tensor();
    Name to = any_tensor();
    if (from == to || !problem_.operands[to] || !problem_.operands[from]) return;
    problem_.operands[to]->allocate_in(*problem_.operands[from]);
    problem_.aliased = true;
  }

 private:
  Name any_tensor() { return static_cast<Name>(data_.ConsumeIntegralInRange(0, names - 1)); }
  int64_t number() {
    return data_.ConsumeBool() ? data_.PickValueInArray(numbers) : data_.ConsumeIntegral<int8_t>();
  }
  int32_t number32() { return static_cast<int32_t>(number()); }

  void mistake_in_structs() {
    fa_options& o = problem_.options;
    switch (data_.ConsumeIntegralInRange(0, 13)) {
      case 0:
        o.size = static_cast<size_t>(number());
        break;
      case 1:
        problem_.args_size = static_cast<size_t>(number());
        break;
      case 2:
        problem_.without_options = true;
        break;
      case 3:
        problem_.without_args = true;
        break;
      case 4:
        problem_.beyond = data_.ConsumeIntegral<uint8_t>();
        break;
      case 5:
        o.scale = data_.PickValueInArray(reals);
        break;
      case 6:
        o.softcap = data_.PickValueInArray(reals);
        break;
      case 7:
        o.dropout_p = data_.PickValueInArray(reals);
        break;
      case 8:
        o.window_left = number();
        break;
      case 9:
        o.window_right = number();
        break;
      case 10:
        o.max_seqlen_q = number();
        break;
      case 11:
        o.max_seqlen_k = number();
        break;
      // Thousands of threads are allowed, but take their time.
      case 12:
        o.num_threads = data_.PickValueInArray({-1, INT32_MIN, 4097, INT32_MAX});
        break;
      default:
        o.family = number32();
        break;
    }
  }

  void mistake_in_tensor() {
    const Name name = any_tensor();
    std::optional<Operand>& operand = problem_.operands[name];
    if (!operand) {
      operand.emplace(fa_dtype FA_FLOAT32, std::vector<int64_t>{number()});
      return;
    }
    switch (data_.ConsumeIntegralInRange(0, 11)) {
      case 0:
        operand.reset();
        break;
      case 1:
        operand->without_shape = true;
        break;
      case 2:
        operand->without_data = true;
        break;
      case 3:
        resize(*operand);
        break;
      case 4:
        operand->ndim = number32();
        resize(*operand, operand->ndim);
        break;
      case 5:
        any(operand->shape) = number();
        break;
      case 6:
        nudge(any(operand->shape));
        break;
      case 7:
        stride(*operand);
        break;
      case 8:
        dtype(operand->dtype);
        break;
      case 9:
        operand->device = {number32(), data_.ConsumeIntegralInRange(-1, 1)};
        break;
      case 10:
        operand->shift = data_.ConsumeIntegralInRange<size_t>(0, 8);
        break;
      default:
        if (!operand->numbers.empty()) any(operand->numbers) = number32();
    }
  }

  template <typename T>
  T& any(std::vector<T>& list) {
    if (list.empty()) list.push_back(0);
    return list[data_.ConsumeIntegralInRange<size_t>(0, list.size() - 1)];
  }

  void nudge(int64_t& extent) {
    const int32_t step = data_.ConsumeIntegralInRange(-1, 1);
    if (__builtin_add_overflow(extent, step, &extent)) extent = 0;
  }

  void resize(Operand& operand) { resize(operand, data_.ConsumeIntegralInRange(0, 9)); }
  static void resize(Operand& operand, int32_t ndim) {
    operand.ndim = ndim;
    const size_t dims = static_cast<size_t>(std::clamp(ndim, 0, 16));
    operand.shape.resize(dims, 1);
    if (!operand.strides.empty()) operand.strides.resize(dims, 1);
  }

  void stride(Operand& operand) {
    operand.strides.resize(operand.shape.size(), 1);
    any(operand.strides) = number();
  }

  void dtype(fa_dtype& type) {
    constexpr fa_dtype known[] = {FA_FLOAT32, FA_FLOAT16, FA_BFLOAT16, FA_INT32, FA_INT64};
    type = data_.ConsumeBool()
               ? data_.PickValueInArray(known)
               : fa_dtype{data_.ConsumeIntegral<uint8_t>(), data_.ConsumeIntegral<uint8_t>(),
                          data_.ConsumeIntegral<uint16_t>()};
  }

  Problem& problem_;
  FuzzedDataProvider& data_;
};

}  // namespace

void spoil(Problem& problem, FuzzedDataProvider& data) {
  Spoiler spoiler(problem, data);
  for (int mistakes = data.ConsumeIntegralInRange(-2, 2); mistakes > 0; --mistakes) {
    spoiler.mistake();
  }
  for (std::optional<Operand>& operand : problem.operands) {
    if (operand) operand->allocate();
  }
  if (data.ConsumeIntegralInRange(0, 15) == 0) spoiler.alias();
}

}  // namespace fa::fuzz
