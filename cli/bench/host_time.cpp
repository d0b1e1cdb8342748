#include "bench/host_time.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/report.hpp"
#include "check/cuda_accelerator.hpp"
#include "common/device_flag.hpp"
#include "common/exit.hpp"
#include "fa/attention.hpp"
#include "support/commit.hpp"
#include "support/io/array.hpp"
#include "support/measure/machine.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

constexpr int rounds = 200;
constexpr int calls = 100;  // of a round: fewer than a device's queue takes without waiting

struct Shape {
  int64_t seqlen_q, seqlen_k, heads_q, heads_k, head_dim;
};
constexpr Shape tiny{16, 16, 2, 2, 64};
// Its few queries leave a GPU idle unless the keys are split, and a second kernel joins the parts.
constexpr Shape decoding{1, 4096, 8, 2, 64};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Memory of the device, or of the host where that is null; zeros.
class Room {
 public:
  Room(check::Accelerator* device, int64_t bytes)
      : device_(device), zeros_(bfloat16, {(bytes + 1) / 2}) {
    std::memset(zeros_.data(), 0, static_cast<size_t>(zeros_.bytes()));
    if (device_ == nullptr || bytes == 0) return;
    data_ = device_->allocate(static_cast<size_t>(zeros_.bytes()));
    device_->upload(data_.get(), zeros_.data(), static_cast<size_t>(zeros_.bytes()), nullptr);
    device_->synchronize(nullptr);
  }
  std::byte* data() { return device_ != nullptr ? data_.get() : zeros_.data(); }

 private:
  check::Accelerator* device_;
  io::Array zeros_;
  check::DeviceMemory data_;
};

struct Times {
  Shape shape;
  Family family = Family::automatic;
  size_t workspace_bytes = 0;
  double first = 0;  ///< fa::forward's, when its kernels are not in the process's memory yet
  std::vector<double> forward, plan_run;
};

class Timer {
 public:
  explicit Timer(check::Accelerator* device)
      : device_(device), stream_(device != nullptr ? device->open_stream() : nullptr) {}

  Times time(const Shape& s, Family family) {
    const Device device = device_ != nullptr ? device_->device() : Device{};
    const int64_t rows = s.seqlen_q * s.heads_q;
    const int64_t keys = s.seqlen_k * s.heads_k;
    Room q(device_, 2 * rows * s.head_dim), out(device_, 2 * rows * s.head_dim);
    Room k(device_, 2 * keys * s.head_dim), v(device_, 2 * keys * s.head_dim);
    Room lse(device_, 4 * rows);
    const auto view = [&](Room& room, int64_t seqlen, int64_t heads) {
      return View(room.data(), bfloat16, {1, seqlen, heads, s.head_dim}, {}, device);
    };
    const View views[] = {view(q, s.seqlen_q, s.heads_q), view(k, s.seqlen_k, s.heads_k),
                          view(v, s.seqlen_k, s.heads_k), view(out, s.seqlen_q, s.heads_q),
                          View(lse.data(), float32, {1, s.heads_q, s.seqlen_q}, {}, device)};
    const ForwardArgs args{views[0], views[1], views[2], views[3], views[4]};
    const Options options{.causal = true, .family = family};

    Times times;
    times.shape = s;
    times.family = family;
    const auto start = std::chrono::steady_clock::now();
    forward(args, options, stream_.get());
    times.first = seconds_since(start);
    times.forward = every_round([&] { forward(args, options, stream_.get()); });

    const Plan plan = plan_forward(args, options);
    plan.prepare();
    times.workspace_bytes = plan.workspace_bytes();
    Room workspace(device_, static_cast<int64_t>(times.workspace_bytes));
    void* at = times.workspace_bytes > 0 ? workspace.data() : nullptr;
    times.plan_run =
        every_round([&] { plan.run(args, options, at, times.workspace_bytes, stream_.get()); });
    return times;
  }

 private:
  /// Seconds of one call, of every round but the first, which warms up.
  template <typename Call>
  std::vector<double> every_round(Call call) {
    std::vector<double> seconds;
    for (int round = 0; round <= rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) call();
      if (round > 0) seconds.push_back(seconds_since(start) / calls);
      if (device_ != nullptr) device_->synchronize(stream_.get());
    }
    return seconds;
  }

  check::Accelerator* device_;
  check::DeviceStream stream_;
};

/// cuda_info()'s line about where the kernels came from.
std::string kernels_line() {
  const std::string info = cuda_info();
  const size_t begin = info.find("\nkernels: ");
  return begin == std::string::npos ? ""
                                    : info.substr(begin + 1, info.find('\n', begin + 1) - begin);
}

/// On a GPU that family sm90 is not for, the plan's own is sm80, too.
const char* family_name(const Times& t) { return t.family == Family::sm80 ? "sm80" : "planned"; }

void print_times(const Times& t) {
  const Shape& s = t.shape;
  fmt::print("{:>5} {:>5} {:>7} {:>4} {:>7} {:>14} {:>11.2f} {:>13.2f} {:>13.2f}\n", s.seqlen_q,
             s.seqlen_k, fmt::format("{}/{}", s.heads_q, s.heads_k), s.head_dim, family_name(t),
             support::bytes_text(static_cast<double>(t.workspace_bytes)), t.first * 1e3,
             median(t.forward) * 1e6, median(t.plan_run) * 1e6);
}

nlohmann::json to_json(const Times& t) {
  const Shape& s = t.shape;
  return {{"seqlen_q", s.seqlen_q},       {"seqlen_k", s.seqlen_k},
          {"heads_q", s.heads_q},         {"heads_k", s.heads_k},
          {"head_dim", s.head_dim},       {"workspace_bytes", t.workspace_bytes},
          {"family", family_name(t)},     {"first_seconds", t.first},
          {"forward_seconds", t.forward}, {"plan_run_seconds", t.plan_run}};
}

}  // namespace

int bench_host_time(const std::string& device, io::TextOutput& json) {
  const std::unique_ptr<check::Accelerator> accelerator = accelerator_of(device);
  const std::string name =
      accelerator == nullptr ? support::cpu_model() : check::cuda_text(accelerator->device().id);
  Timer timer(accelerator.get());
  std::vector<Times> all{timer.time(tiny, Family::automatic)};
  if (accelerator != nullptr) {
    all.push_back(timer.time(decoding, Family::automatic));
    for (const Shape& shape : {tiny, decoding}) all.push_back(timer.time(shape, Family::sm80));
  }

  fmt::print("FlashAttention.cpp {} ({}), {}, {}\n\n", version(), support::commit, device, name);
  fmt::print("{:>5} {:>5} {:>7} {:>4} {:>7} {:>14} {:>11} {:>13} {:>13}\n", "rows", "keys", "heads",
             "d", "family", "workspace", "first, ms", "forward, us", "Plan::run, us");
  for (const Times& times : all) print_times(times);
  fmt::print("bfloat16, causal; median of {} rounds of {} calls\n{}", rounds, calls,
             accelerator == nullptr ? "" : kernels_line());
  if (json.wanted()) {
    nlohmann::json found{{"device", name}, {"version", version()}, {"commit", support::commit}};
    for (const Times& times : all) found["cells"].push_back(to_json(times));
    json.write(found.dump(2) + "\n");
  }
  return exit_right;
}

}  // namespace fa::cli
