#include "check/offer.hpp"

#include <initializer_list>

namespace fa::check {
namespace {

Features all_but(std::initializer_list<Feature> absent) {
  Features features = Features().set();
  for (const Feature f : absent) features.reset(bit(f));
  return features;
}

}  // namespace

// Tiles of 96 rows and 128 keys.
const Offer cpu_offer{
    .features = all_but({}),
    .tile_rows = 96,
    .tile_keys = 128,
    .next_rows_least = 90,
    .next_rows_most = 110,
    .next_keys_least = 120,
    .next_keys_most = 140,
    .split_keys = 1024,
    .split_most = 2,
    .small_rows = 48,
    .small_keys = 80,
    .work_limit = 1.5e6,
    .any_dim = true,
    .capped_error = 0,
    .same_bits_alone = true,
    .extremes = true,
    .has_families = false,
    .least_dim = 0,
    .most_dim = 0,
    .sm90 = nullptr,
    .sm90_wide = nullptr,
};

// Tiles of 32 to 256 rows, 16 to 80 keys a step. Long sequences' are left to tests/gpu/tiles_test:
// a problem of 2e7 multiply-adds takes the reference some 100 ms.
const Offer cuda_offer{
    .features = all_but({Feature::fp32, Feature::threads}),
    .tile_rows = 128,
    .tile_keys = 128,
    .next_rows_least = 129,
    .next_rows_most = 170,
    .next_keys_least = 129,
    .next_keys_most = 170,
    .split_keys = 1024,
    .split_most = 4,
    .small_rows = 100,
    .small_keys = 150,
    .work_limit = 2e7,
    .any_dim = false,
    .capped_error = 0x1p-11,
    .same_bits_alone = false,
    .extremes = false,
    .has_families = true,
    .least_dim = 0,
    .most_dim = 0,
    .sm90 = nullptr,
    .sm90_wide = nullptr,
};

namespace {

const Offer sm90_offer = [] {
  Offer offer = cuda_offer;
  offer.least_dim = 64;
  offer.most_dim = 128;
  return offer;
}();

const Offer sm90_wide_offer = [] {
  Offer offer = cuda_offer;
  offer.least_dim = 136;
  offer.most_dim = 256;
  return offer;
}();

}  // namespace

const Offer hopper_offer = [] {
  Offer offer = cuda_offer;
  offer.sm90 = &sm90_offer;
  offer.sm90_wide = &sm90_wide_offer;
  return offer;
}();

}  // namespace fa::check
