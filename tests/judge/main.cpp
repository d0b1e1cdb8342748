// Random problems over the C ABI, judged by docs/numerics.md: written from that page and fa.h
// alone, and sharing no code with the library, its reference or its other tests.
//
//   judge_test TARGET COUNT SEED                the first COUNT problems of SEED; TARGET as in
//                                          FA_CPU_TARGET, or best
//   judge_test TARGET COUNT SEED --only NUMBER  that problem alone, described
//   judge_test TARGET COUNT SEED --json PATH    the counts go to a file as well
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "run.hpp"

namespace judge {
namespace {

constexpr int skipped = 77;
constexpr int told_failures = 20;

struct Arguments {
  std::string target;
  uint64_t count = 0;
  uint64_t seed = 0;
  bool only = false;
  uint64_t number = 0;
  std::string json;
};

bool read(int argc, char** argv, Arguments& arguments) {
  if (argc < 4) return false;
  arguments.target = argv[1];
  arguments.count = std::stoull(argv[2]);
  arguments.seed = std::stoull(argv[3]);
  for (int n = 4; n + 1 < argc; n += 2) {
    const std::string name = argv[n];
    if (name == "--only") {
      arguments.only = true;
      arguments.number = std::stoull(argv[n + 1]);
    } else if (name == "--json") {
      arguments.json = argv[n + 1];
    } else {
      return false;
    }
  }
  return argc % 2 == 0;
}

bool has_target(const std::string& name) {
  const char* all = nullptr;
  if (fa_cpu_targets(&all) != FA_OK) return false;
  std::istringstream words(all);
  return std::any_of(std::istream_iterator<std::string>(words),
                     std::istream_iterator<std::string>(),
                     [&](const std::string& word) { return word == name; });
}

class Session {
 public:
  explicit Session(Arguments arguments) : arguments_(std::move(arguments)) {}

  Count run() {
    const size_t workers = arguments_.only ? 1 : std::max(1U, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (size_t n = 0; n < workers; ++n) threads.emplace_back([this] { work(); });
    for (std::thread& thread : threads) thread.join();
    return std::move(total_);
  }

 private:
  void work() {
    Count count;
    for (;;) {
      const uint64_t n = arguments_.only ? arguments_.number : next_++;
      if (!arguments_.only && n >= arguments_.count) break;
      one(n, count);
      if (arguments_.only) break;
    }
    const std::lock_guard lock(mutex_);
    total_.add(count);
  }

  void one(uint64_t number, Count& count) {
    Faults faults;
    std::string text = "merge";
    if (number % 10 == 9) {
      run_merge(arguments_.seed, number, count, faults);
    } else {
      Problem problem;
      draw(arguments_.seed, number, problem);
      for (const std::string& what : problem.met) ++count.met[what];
      run_attention(problem, count, faults);
      text = problem.text();
    }
    ++count.problems;
    if (arguments_.only) std::printf("%s\n", text.c_str());
    if (faults.empty()) return;
    ++count.failed;
    const std::lock_guard lock(mutex_);
    if (told_++ >= told_failures) return;
    std::printf("problem %llu: %s\n", static_cast<unsigned long long>(number), text.c_str());
    for (const std::string& fault : faults) std::printf("  %s\n", fault.c_str());
    std::printf("  again: judge_test %s 1 %llu --only %llu\n", arguments_.target.c_str(),
                static_cast<unsigned long long>(arguments_.seed),
                static_cast<unsigned long long>(number));
    std::fflush(stdout);
  }

  Arguments arguments_;
  std::atomic<uint64_t> next_{0};
  std::mutex mutex_;
  Count total_;
  int told_ = 0;
};

nlohmann::ordered_json to_json(const Arguments& arguments, const char* target, const Count& count) {
  nlohmann::ordered_json json;
  json["target"] = target;
  json["seed"] = arguments.seed;
  json["library"] = fa_version();
  json["problems"] = count.problems;
  json["over the bound"] = count.failed;
  json["rows that float32 cannot decide"] = count.undecided_rows;
  json["numbers beyond their dtype"] = count.infinite;
  for (const auto& [dtype, outputs] : count.worst) {
    for (const auto& [name, worst] : outputs) {
      json["worst error / bound"][dtype][name] = {{"ratio", std::round(worst.ratio * 1e4) / 1e4},
                                                  {"problem", worst.problem}};
    }
  }
  for (const auto& [what, n] : count.met) json["met"][what] = n;
  return json;
}

int run(const Arguments& arguments) {
  // Read by the library's first call.
  if (arguments.target != "best" && setenv("FA_CPU_TARGET", arguments.target.c_str(), 1) != 0) {
    return 1;
  }
  if (arguments.target != "best" && !has_target(arguments.target)) {
    std::printf("this CPU has no %s\n", arguments.target.c_str());
    return skipped;
  }
  const char* target = nullptr;
  if (fa_cpu_target(&target) != FA_OK) {
    std::printf("%s\n", fa_last_error());
    return 1;
  }
  const Count count = Session(arguments).run();
  const nlohmann::ordered_json json = to_json(arguments, target, count);
  std::printf("%s\n", json.dump(1).c_str());
  if (!arguments.json.empty()) {
    std::ofstream file(arguments.json);
    file << json.dump(1) << "\n";
    file.close();
    if (!file) {
      std::printf("%s cannot be written\n", arguments.json.c_str());
      return 1;
    }
  }
  std::printf("%s: %lld problems, %lld over the bound\n", target,
              static_cast<long long>(count.problems), static_cast<long long>(count.failed));
  return count.failed == 0 && count.problems > 0 ? 0 : 1;
}

}  // namespace
}  // namespace judge

int main(int argc, char** argv) {
  try {
    judge::Arguments arguments;
    if (!judge::read(argc, argv, arguments)) {
      std::printf("usage: judge_test TARGET COUNT SEED [--only NUMBER] [--json PATH]\n");
      return 2;
    }
    return judge::run(arguments);
  } catch (const std::exception& error) {
    std::printf("judge: %s\n", error.what());
    return 1;
  }
}
