// Compares outputs with what they should be, and counts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formula.hpp"
#include "problem.hpp"

namespace judge {

struct Worst {
  double ratio = 0;  // error / bound, of the norm or of a single number
  uint64_t problem = 0;
};

struct Count {
  int64_t problems = 0;
  int64_t failed = 0;
  int64_t undecided_rows = 0;
  int64_t infinite = 0;  // numbers beyond their dtype, which may be infinite
  std::map<std::string, int64_t> met;
  std::map<std::string, std::map<std::string, Worst>> worst;  // by dtype, then output

  void add(const Count& other);
};

// What is wrong with one problem's results, one sentence each.
using Faults = std::vector<std::string>;

class Judge {
 public:
  Judge(std::string dtype, uint64_t problem, Count& count, Faults& faults)
      : dtype_(std::move(dtype)), problem_(problem), count_(count), faults_(faults) {}

  // `eps` is the bound's; `half_step` what storing may add to each number.
  void compare(const char* name, const Tensor& tensor, const Expected& expected, double eps,
               double half_step = 0);
  void compare_hull(const Tensor& out, const Expectation& expected, const Format& format);
  // The relative error that standard-normal inputs keep under.
  void compare_normal(const char* name, const Tensor& tensor, const Expected& expected,
                      const Format& format);
  void fault(const std::string& text) { faults_.push_back(text); }
  void count_undecided(int64_t rows) { count_.undecided_rows += rows; }

 private:
  void note(const char* name, double ratio);

  std::string dtype_;
  uint64_t problem_;
  Count& count_;
  Faults& faults_;
};

}  // namespace judge
