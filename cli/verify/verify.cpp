#include "verify/verify.hpp"

#include <algorithm>
#include <random>
#include <set>

#include "reference/layout.hpp"
#include "reference/number.hpp"
#include "reference/reference.hpp"

namespace fa::cli {
namespace {

using reference::Part;
using reference::Result;
using reference::Rounding;
using reference::Shapes;

int64_t elements(const Tensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.ndim; ++i) count *= tensor.shape[i];
  return count;
}

void judge(std::vector<Verdict>& verdicts, const char* name, const Tensor& ours,
           const std::vector<double>& exact, const std::vector<double>& plain,
           const std::vector<double>& abs, DType precision) {
  if (!ours.given()) return;
  Verdict verdict(name, ours.dtype, precision);
  const auto* data = static_cast<const std::byte*>(ours.data);
  const int64_t width = ours.dtype.bits / 8;
  for (int64_t i = 0; i < elements(ours); ++i) {
    const double value = reference::load(ours.dtype, data + i * width);
    const auto at = static_cast<size_t>(i);
    verdict.add({value, exact[at], plain[at], abs[at]});
  }
  verdicts.push_back(verdict);
}

Result run_reference(const Finished& call, Rounding rounding) {
  const BackwardArgs& a = call.args;
  if (a.dq.given()) return reference::backward(a, call.options, rounding);
  return reference::forward({a.q, a.k, a.v, a.out, a.lse}, call.options, rounding);
}

/// Draws rows and keys, and compares each with the reference.
class Sampler {
 public:
  Sampler(const Finished& call, const Sample& sample)
      : args_(call.args),
        options_(call.options),
        shapes_(args_, options_),
        sample_(sample),
        random_(sample.seed) {}

  std::vector<Verdict> run() {
    draw();
    // The keys' tasks take longest: first, and both roundings at once.
    const auto key_tasks = static_cast<int64_t>(2 * keys_.size());
    const auto tasks = key_tasks + static_cast<int64_t>(rows_.size());
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < tasks; ++i) {
      if (i < key_tasks) {
        run_keys(keys_[static_cast<size_t>(i / 2)], i % 2 == 0 ? Rounding::exact : Rounding::plain);
      } else {
        check_row(rows_[static_cast<size_t>(i - key_tasks)]);
      }
    }
    for (const KeyTask& task : keys_) compare_keys(task);
    std::vector<Verdict> verdicts;
    for (const Verdict& v : {out_, lse_, dq_, dk_, dv_}) {
      if (v.numbers() > 0) verdicts.push_back(v);
    }
    return verdicts;
  }

 private:
  struct RowTask {
    int64_t batch, head, row;
  };
  struct KeyTask {
    int64_t batch, head;
    std::vector<int64_t> keys;
    std::vector<reference::KeyRow> exact{}, plain{};
  };

  /// A number in [0, count), or 0.
  int64_t below(int64_t count) {
    return count > 0 ? static_cast<int64_t>(random_() % static_cast<uint64_t>(count)) : 0;
  }

  void draw() {
    if (shapes_.batch == 0) return;
    for (int64_t n = 0; n < sample_.rows; ++n) {
      const int64_t batch = below(shapes_.batch);
      const int64_t used = shapes_.rows.span(batch).used;
      if (used > 0) rows_.push_back({batch, below(shapes_.heads_q), below(used)});
    }
    if (!args_.dk.given()) return;
    for (int64_t n = 0; n < sample_.key_heads; ++n) {
      const int64_t batch = below(shapes_.batch);
      const int64_t used = shapes_.keys.span(batch).used;
      std::set<int64_t> keys;
      for (int64_t k = 0; k < std::min(sample_.keys, used); ++k) keys.insert(below(used));
      keys_.push_back({batch, below(shapes_.heads_k), {keys.begin(), keys.end()}});
    }
  }

  /// Compares some numbers of one row of `ours`.
  void compare(Verdict& verdict, const Tensor& ours, int64_t first, const Part& exact,
               const Part& plain) {
    const int64_t width = ours.dtype.bits / 8;
    const auto* data = static_cast<const std::byte*>(ours.data) + first * width;
#pragma omp critical(fa_cli_verdicts)
    for (size_t i = 0; i < exact.values.size(); ++i) {
      const double value = reference::load(ours.dtype, data + static_cast<int64_t>(i) * width);
      verdict.add({value, exact.values[i], plain.values[i], exact.abs[i]});
    }
  }

  void check_row(const RowTask& task) {
    const auto [batch, head, row] = task;
    const int64_t position = shapes_.rows.span(batch).first + row;
    const auto at = [&](int64_t width) {
      return Shapes::at(position, head, shapes_.heads_q, width);
    };
    const ForwardArgs forward{args_.q, args_.k, args_.v, args_.out, args_.lse};
    const auto exact = reference::forward_row(forward, options_, batch, head, row, Rounding::exact);
    const auto plain = reference::forward_row(forward, options_, batch, head, row, Rounding::plain);
    compare(out_, args_.out, at(shapes_.dim_v), exact.out, plain.out);
    if (args_.lse.given()) {
      compare(lse_, args_.lse, shapes_.lse_at(batch, head, row), exact.lse, plain.lse);
    }
    if (args_.dq.given()) {
      compare(dq_, args_.dq, at(shapes_.dim),
              reference::dq_row(args_, options_, batch, head, row, Rounding::exact),
              reference::dq_row(args_, options_, batch, head, row, Rounding::plain));
    }
  }

  void run_keys(KeyTask& task, Rounding rounding) {
    auto& result = rounding == Rounding::exact ? task.exact : task.plain;
    result = reference::dkv_rows(args_, options_, task.batch, task.head, task.keys, rounding);
  }

  void compare_keys(const KeyTask& task) {
    for (size_t i = 0; i < task.keys.size(); ++i) {
      const int64_t position = shapes_.keys.span(task.batch).first + task.keys[i];
      const auto at = [&](int64_t width) {
        return Shapes::at(position, task.head, shapes_.heads_k, width);
      };
      compare(dk_, args_.dk, at(shapes_.dim), task.exact[i].dk, task.plain[i].dk);
      compare(dv_, args_.dv, at(shapes_.dim_v), task.exact[i].dv, task.plain[i].dv);
    }
  }

  const BackwardArgs& args_;
  const Options& options_;
  const Shapes shapes_;
  const Sample sample_;
  std::mt19937_64 random_;
  std::vector<RowTask> rows_;
  std::vector<KeyTask> keys_;
  Verdict out_{"out", args_.q.dtype, args_.q.dtype};
  Verdict lse_{"lse", float32, float32};
  Verdict dq_{"dq", args_.q.dtype, args_.q.dtype};
  Verdict dk_{"dk", args_.q.dtype, args_.q.dtype};
  Verdict dv_{"dv", args_.q.dtype, args_.q.dtype};
};

}  // namespace

double reference_work(const Finished& call) {
  const BackwardArgs& a = call.args;
  const Shapes shapes(a, call.options);
  double scores = 0;
  for (int64_t b = 0; b < shapes.batch; ++b) {
    scores += static_cast<double>(shapes.rows.span(b).used) *
              static_cast<double>(shapes.keys.span(b).used);
  }
  return scores * static_cast<double>(shapes.heads_q * (shapes.dim + shapes.dim_v)) *
         (a.dq.given() ? 3.5 : 1);
}

std::vector<Verdict> verify_all(const Finished& call) {
  Result exact;
  Result plain;
#pragma omp parallel sections num_threads(2)
  {
#pragma omp section
    exact = run_reference(call, Rounding::exact);
#pragma omp section
    plain = run_reference(call, Rounding::plain);
  }
  const BackwardArgs& a = call.args;
  const DType dtype = a.q.dtype;
  std::vector<Verdict> verdicts;
  judge(verdicts, "out", a.out, exact.out, plain.out, exact.out_abs, dtype);
  judge(verdicts, "lse", a.lse, exact.lse, plain.lse, exact.lse_abs, float32);
  judge(verdicts, "dq", a.dq, exact.dq, plain.dq, exact.dq_abs, dtype);
  judge(verdicts, "dk", a.dk, exact.dk, plain.dk, exact.dk_abs, dtype);
  judge(verdicts, "dv", a.dv, exact.dv, plain.dv, exact.dv_abs, dtype);
  judge(verdicts, "dbias", a.dbias, exact.dbias, plain.dbias, exact.dbias_abs, dtype);
  judge(verdicts, "dsinks", a.dsinks, exact.dsinks, plain.dsinks, exact.dsinks_abs, dtype);
  return verdicts;
}

std::vector<Verdict> verify_sample(const Finished& call, const Sample& sample) {
  return Sampler(call, sample).run();
}

}  // namespace fa::cli
