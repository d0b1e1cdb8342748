// A child of fork() has none of its parent's threads: it computes with one, and does not hang.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::test::Floats;

/// Large enough for more threads than one.
struct Problem {
  Floats q{{1, 200, 8, 32}}, k{{1, 200, 8, 32}}, v{{1, 200, 8, 32}}, dout{{1, 200, 8, 32}};
  Floats out{{1, 200, 8, 32}}, lse{{1, 8, 200}};
  Floats dq{{1, 200, 8, 32}}, dk{{1, 200, 8, 32}}, dv{{1, 200, 8, 32}};
  Floats joined{{1, 200, 8, 32}}, joined_lse{{1, 8, 200}};

  Problem() {
    int n = 0;
    for (Floats* x : {&q, &k, &v, &dout}) {
      for (float& number : x->data) number = std::sin(static_cast<float>(++n));
    }
  }
  fa::ForwardArgs forward() const { return {q, k, v, out, lse}; }
  void compute(const fa::Options& options) {
    fa::forward(forward(), options);
    fa::backward(dout, q, k, v, out, lse, dq, dk, dv, options);
    fa::merge(out, lse, v, lse, joined, joined_lse);
  }
  std::vector<const Floats*> results() const { return {&out, &lse, &dq, &dk, &dv, &joined}; }
  bool operator==(const Problem& other) const {
    const auto mine = results();
    const auto its = other.results();
    for (size_t i = 0; i < mine.size(); ++i) {
      if (mine[i]->data != its[i]->data) return false;
    }
    return true;
  }
};

/// The exit status of a child; one that hangs is killed.
int in_child(const std::function<bool()>& right) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    bool ok = false;
    try {
      ok = right();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "in the child: %s\n", error.what());
    }
    _exit(ok ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

fa::Options threads(int32_t count) {
  fa::Options options;
  options.num_threads = count;
  return options;
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const fa::Error& error) {
    return error.status() == fa::Status::invalid_argument ? error.what() : "another status";
  }
  return "";
}

// The first case: no thread has been started yet.
TEST(Fork, AChildOfAProcessWithoutThreadsHasItsOwn) {
  ASSERT_EQ(in_child([] {
              Problem two, one;
              two.compute(threads(2));
              one.compute(threads(1));
              return two == one;
            }),
            0);
}

TEST(Fork, AChildOfAProcessWithThreadsHasOne) {
  Problem parents;
  parents.compute(threads(2));
  const fa::Plan plan = fa::plan_forward(parents.forward());
  const fa::Plan plan_of_two = fa::plan_forward(parents.forward(), threads(2));
  std::vector<char> room(plan_of_two.workspace_bytes() + plan.workspace_bytes() + 64);
  void* workspace = room.data() + 64 - reinterpret_cast<uintptr_t>(room.data()) % 64;
  const size_t bytes = room.size() - 64;

  ASSERT_EQ(in_child([&] {
              Problem mine;
              mine.compute({});
              return mine == parents;
            }),
            0)
      << "by default";
  ASSERT_EQ(in_child([&] {
              Problem mine;
              mine.compute(threads(1));
              return mine == parents;
            }),
            0)
      << "one thread asked for";
  ASSERT_EQ(in_child([&] {
              Problem mine;
              const std::string of_forward = refusal([&] { mine.compute(threads(2)); });
              const std::string of_plan =
                  refusal([&] { (void)fa::plan_forward(mine.forward(), threads(2)); });
              std::fprintf(stderr, "%s\n", of_forward.c_str());
              return of_forward.starts_with("num_threads: is 2;") &&
                     of_forward.find("fork()") != std::string::npos && of_plan == of_forward &&
                     mine.out.data[0] == 0;
            }),
            0)
      << "more asked for";
  ASSERT_EQ(in_child([&] {
              Problem mine;
              plan.run(mine.forward(), {}, workspace, bytes);
              return mine.out.data == parents.out.data;
            }),
            0)
      << "by a plan of the parent's";
  ASSERT_EQ(in_child([&] {
              Problem mine;
              return !refusal([&] {
                        plan_of_two.run(mine.forward(), threads(2), workspace, bytes);
                      }).empty();
            }),
            0)
      << "by a plan of the parent's for two threads";
  ASSERT_EQ(in_child([&] {
              return in_child([&] {
                       Problem mine;
                       mine.compute({});
                       return mine == parents;
                     }) == 0;
            }),
            0)
      << "in a child of the child";
  Problem again;
  again.compute(threads(2));
  EXPECT_TRUE(again == parents) << "the parent keeps its threads";
}

TEST(Fork, WhileOtherThreadsAreInCalls) {
  std::atomic<bool> done{false};
  std::vector<std::thread> others;
  for (int t = 0; t < 3; ++t) {
    others.emplace_back([&done] {
      Floats q({1, 1, 1, 8}, 1), out({1, 1, 1, 8});
      while (!done) fa::forward(q, q, q, out, {});
    });
  }
  for (int n = 0; n < 100; ++n) {
    const int status = in_child([] {
      Floats q({1, 1, 1, 8}, 1), out({1, 1, 1, 8});
      fa::forward(q, q, q, out, {});
      return out.data == q.data;
    });
    EXPECT_EQ(status, 0);
    if (status != 0) break;
  }
  done = true;
  for (std::thread& other : others) other.join();
}

}  // namespace
