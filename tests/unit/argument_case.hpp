// A small right call for tests of wrong arguments, and the errors that they expect.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace fa::test {

/// A small right call that a case spoils.
struct Case {
  Floats q{{2, 3, 4, 16}, 1}, k{{2, 5, 2, 16}, 1}, v{{2, 5, 2, 24}, 1};
  Floats out{{2, 3, 4, 24}, 7}, lse{{2, 4, 3}, 7};
  Floats dout{{2, 3, 4, 24}, 1}, dq{{2, 3, 4, 16}, 7}, dk{{2, 5, 2, 16}, 7}, dv{{2, 5, 2, 24}, 7};
  ForwardArgs forward{q, k, v, out, lse};
  BackwardArgs backward{dout, q, k, v, out, lse, dq, dk, dv};
  Options options;
};

struct Expected {
  Status status;
  std::vector<std::string> words;
};

inline void expect_error(const Expected& expected, const std::function<void()>& call) {
  try {
    call();
    FAIL() << "accepted; expected an error with: " << testing::PrintToString(expected.words);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), expected.status) << error.what();
    for (const std::string& word : expected.words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "no \"" << word << "\" in: " << error.what();
    }
  }
}

}  // namespace fa::test
