// Pairs of options that the library must refuse, each asked once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check/offer.hpp"
#include "check/place.hpp"

namespace fa::check {

/// The refused pairs that were not answered as they must be: with Error, naming the argument,
/// before anything is written.
std::vector<std::string> wrongly_accepted(uint64_t seed, const Offer& offer, Place& place);

}  // namespace fa::check
