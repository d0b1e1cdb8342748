// A warp's products by wgmma that are under way (wgmma.cpp).
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "emulator/kernels/emulator.hpp"

namespace emulator {

/// D's rows of one warp while products to it are under way: the lanes' registers hold poison.
struct Sums {
  std::vector<float> d[32];  ///< by lane
  float* registers[32];
  int products = 0;
};

/// A warp's 16 rows of one wgmma.
struct WarpProduct {
  WarpGroupProduct form;  ///< that of the first lane; the registers are in `a` already
  std::shared_ptr<Sums> sums;
  std::vector<float> a;  ///< [16][16], once it is read
  std::vector<float> b;  ///< [16][8 * tiles]
};

struct WarpProducts {
  std::map<const float*, std::shared_ptr<Sums>> sums;  ///< by the first lane's registers
  std::vector<WarpProduct> open;
  std::deque<std::vector<WarpProduct>> groups;
  bool fenced = false;  ///< since the last wait
};

}  // namespace emulator
