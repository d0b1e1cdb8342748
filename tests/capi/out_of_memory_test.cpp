// Wherever an allocation fails, the call says so, has written nothing, and the next one is right.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "fa/fa.h"

namespace {

/// Allocations from the `first` one on fail, or only that one.
struct Failure {
  bool armed = false;
  bool lasting = false;
  int64_t first = 0;
  int64_t seen = 0;

  bool now() {
    if (!armed) return false;
    const int64_t number = seen++;
    return lasting ? number >= first : number == first;
  }
};
Failure failure;

}  // namespace

// This program's, which the library, the C++ runtime and the loader use as well.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): glibc's own
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
// NOLINTEND(bugprone-reserved-identifier)

void* malloc(size_t bytes) {
  if (!failure.now()) return __libc_malloc(bytes);
  errno = ENOMEM;
  return nullptr;
}
void* calloc(size_t count, size_t bytes) {
  if (!failure.now()) return __libc_calloc(count, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* realloc(void* memory, size_t bytes) {
  if (!failure.now()) return __libc_realloc(memory, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  if (!failure.now()) return __libc_memalign(alignment, bytes);
  errno = ENOMEM;
  return nullptr;
}
}

namespace {

constexpr int64_t S = 40, D = 16;

struct Array {
  explicit Array(std::vector<int64_t> extents, float value = 7) : shape(std::move(extents)) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    data.assign(n, value);
    tensor = {data.data(),
              {FA_CPU, 0},
              static_cast<int32_t>(shape.size()),
              FA_FLOAT32,
              shape.data(),
              nullptr,
              0};
  }
  bool all(float value) const {
    return std::all_of(data.begin(), data.end(),
                       [&](float x) { return std::abs(x - value) < 1e-5f; });
  }
  std::vector<int64_t> shape;
  std::vector<float> data;
  fa_tensor tensor{};
};

/// Equal keys and values: out is V, dq and dk are 0.
struct Problem {
  Array q{{1, S, 2, D}, 0.5f}, k{{1, S, 2, D}, 0.5f}, v{{1, S, 2, D}, 0.25f};
  Array dout{{1, S, 2, D}, 1}, out{{1, S, 2, D}}, lse{{1, 2, S}}, joined{{1, 2, S}};
  Array dq{{1, S, 2, D}}, dk{{1, S, 2, D}}, dv{{1, S, 2, D}};
  fa_options options = FA_OPTIONS_INIT;
  fa_forward_args forward{sizeof forward, &q.tensor,   &k.tensor,
                          &v.tensor,      &out.tensor, &lse.tensor};
  fa_backward_args backward{sizeof backward, &dout.tensor, &q.tensor,  &k.tensor,  &v.tensor,
                            &out.tensor,     &lse.tensor,  &dq.tensor, &dk.tensor, &dv.tensor,
                            nullptr,         nullptr,      nullptr};
  std::vector<char> room;  // a workspace
};

struct Case {
  const char* name;
  std::function<void(Problem&)> prepare;
  std::function<fa_status(Problem&)> call;
  std::function<bool(const Problem&)> right;
  std::function<bool(const Problem&)> unwritten;
  fa_status expected = FA_OK;
  bool asks_driver = false;
};

/// NVIDIA's driver ends the process, or faults, where one of its own allocations fails.
bool has_driver() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (driver != nullptr) dlclose(driver);
  return driver != nullptr;
}

void need(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "%s; the library's last error: %s\n", what, fa_last_error());
  _exit(1);
}

constexpr int reached_the_end = 2;

/// In a process of its own, whose first call it is: 0, or reached_the_end when there are fewer
/// allocations than that.
void fail_at(const Case& c, int64_t first, bool lasting) {
  Problem p;
  c.prepare(p);
  failure = {.armed = true, .lasting = lasting, .first = first};
  const fa_status status = c.call(p);
  const bool said = status == FA_OK || *fa_last_error() != '\0';
  failure.armed = false;
  const bool failed = failure.seen > first;
  need(status == c.expected || (failed && status == FA_OUT_OF_MEMORY), "another status");
  need(said, "no message");
  if (status == FA_OUT_OF_MEMORY) need(c.unwritten(p), "an output was written");
  need(c.call(p) == c.expected, "the next call failed");
  need(c.right(p), "the next call was wrong");
  _exit(failed ? 0 : reached_the_end);
}

/// How many allocations there were to fail.
int64_t fail_each(const Case& c, bool lasting) {
  for (int64_t first = 0;; ++first) {
    const pid_t child = fork();
    if (child == 0) fail_at(c, first, lasting);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == reached_the_end) return first;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      ADD_FAILURE() << c.name << ": allocation " << first << (lasting ? " and all later ones" : "")
                    << " failed, and the process ended with " << status;
      return first;
    }
  }
}

const char* info = nullptr;

std::vector<Case> cases() {
  const auto always = [](const Problem&) { return true; };
  const auto nothing = [](Problem&) {};
  const auto run_forward = [](Problem& p) { fa_forward(&p.forward, &p.options, nullptr); };
  const auto right_out = [](const Problem& p) { return p.out.all(0.25f); };
  const auto no_out = [](const Problem& p) { return p.out.all(7) && p.lse.all(7); };
  return {
      {"forward", nothing, [](Problem& p) { return fa_forward(&p.forward, &p.options, nullptr); },
       right_out, no_out},
      {"forward, one thread asked for", [](Problem& p) { p.options.num_threads = 1; },
       [](Problem& p) { return fa_forward(&p.forward, &p.options, nullptr); }, right_out, no_out},
      {"backward", run_forward,
       [](Problem& p) { return fa_backward(&p.backward, &p.options, nullptr); },
       [](const Problem& p) { return p.dq.all(0) && p.dk.all(0) && p.dv.all(1); },
       [](const Problem& p) { return p.dq.all(7) && p.dk.all(7) && p.dv.all(7); }},
      {"plan", [](Problem& p) { p.room.resize(4 << 20); },
       [](Problem& p) {
         fa_plan* plan = nullptr;
         fa_status status = fa_plan_forward(&p.forward, &p.options, &plan);
         if (status != FA_OK) return plan == nullptr ? status : FA_INTERNAL;
         auto* place = p.room.data() + 64 - reinterpret_cast<uintptr_t>(p.room.data()) % 64;
         status =
             fa_plan_run_forward(plan, &p.forward, &p.options, place, p.room.size() - 64, nullptr);
         fa_plan_destroy(plan);
         return status;
       },
       right_out, no_out},
      {"merge", run_forward,
       [](Problem& p) {
         return fa_merge(&p.out.tensor, &p.lse.tensor, &p.v.tensor, &p.lse.tensor, &p.dq.tensor,
                         &p.joined.tensor, nullptr);
       },
       [](const Problem& p) { return p.dq.all(0.25f); },
       [](const Problem& p) { return p.dq.all(7) && p.joined.all(7); }},
      {"a refusal", [](Problem& p) { p.options.softcap = -1; },
       [](Problem& p) { return fa_forward(&p.forward, &p.options, nullptr); },
       [](const Problem&) { return std::strstr(fa_last_error(), "softcap: is -1") != nullptr; },
       no_out, FA_INVALID_ARGUMENT},
      {"cuda_info", nothing, [](Problem&) { return fa_cuda_info(&info); },
       [](const Problem&) { return std::strstr(info, "nvrtc: ") != nullptr; }, always, FA_OK, true},
      {"release_memory", run_forward, [](Problem&) { return fa_release_memory(); }, always, always},
  };
}

class OutOfMemory : public testing::TestWithParam<bool> {};

TEST_P(OutOfMemory, IsAStatus) {
  for (const Case& c : cases()) {
    if (c.asks_driver && has_driver()) continue;
    const int64_t places = fail_each(c, GetParam());
    std::printf("%-30s %ld allocations\n", c.name, static_cast<long>(places));
  }
}

INSTANTIATE_TEST_SUITE_P(Allocations, OutOfMemory, testing::Bool(),
                         [](const auto& info) { return info.param ? "Lasting" : "Once"; });

}  // namespace
