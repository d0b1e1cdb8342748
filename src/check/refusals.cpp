#include "check/refusals.hpp"

#include <fmt/format.h>

#include "check/features.hpp"
#include "check/generate.hpp"

namespace fa::check {
namespace {

/// Every byte of the outputs is as it was made.
bool untouched(const Case& c, bool backward) {
  for (const Output& output : c.outputs(backward)) {
    for (const std::byte x : output.array->memory().content()) {
      if (x != std::byte{0xff}) return false;
    }
  }
  return true;
}

/// Tells what is wrong with the answer to a call that must be refused; empty when it is right.
template <typename Call>
std::string wrong_answer(const Case& c, bool backward, const char* argument, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.find(argument) == std::string::npos) {
      return fmt::format("the error does not name {}: {}", argument, message);
    }
    return untouched(c, backward) ? "" : "refused after an output was written";
  } catch (const std::exception& error) {
    return fmt::format("threw: {}", error.what());
  }
  return "accepted";
}

}  // namespace

std::vector<std::string> wrongly_accepted(uint64_t seed, const Offer& offer, Place& place) {
  std::vector<std::string> wrong;
  for (int a = 0; a < feature_count; ++a) {
    for (int b = 0; b < a; ++b) {
      const Pair pair{static_cast<Feature>(a), static_cast<Feature>(b)};
      if (!offer.features[a] || !offer.features[b]) continue;
      if (meeting(pair.a, pair.b) != Meeting::refused) continue;
      const Case c(draw_refused(offer, pair, seed));
      const auto expect = [&](bool backward, const auto& call) {
        // Every refused pair is one of a bias with packed sequences.
        if (const std::string what = wrong_answer(c, backward, "bias", call); !what.empty()) {
          wrong.push_back(fmt::format("{} x {}: {} {}", name(pair.a), name(pair.b),
                                      backward ? "backward" : "forward", what));
        }
      };
      using Here = Place::Here;
      expect(false, [&] {
        place.run(c.memory(), [&](const Here& here) {
          forward(here(c.forward_args()), here(c.options()), here.stream());
        });
      });
      if (!c.spec.backward) continue;
      expect(true, [&] {
        place.run(c.memory(), [&](const Here& here) {
          fa::backward(here(c.backward_args()), here(c.options()), here.stream());
        });
      });
    }
  }
  return wrong;
}

}  // namespace fa::check
