// Where NVRTC lies, told from files alone: opening one costs 15 ms.
#pragma once

#include <string>
#include <vector>

namespace fa::cuda {

struct NvrtcSearch {
  /// In the order in which they are to be tried: absolute paths without links, then bare names,
  /// for what only the loader's own cache knows.
  std::vector<std::string> files;
  /// The places where nothing was found, and what was found and does not fit.
  std::vector<std::string> misses;
  bool named = false;  ///< by FA_NVRTC
};

/// newest_major: of the CUDA version that the driver supports; 0 where there is no driver. Throws
/// Error (invalid_argument) when FA_NVRTC names nothing of use; else it alone is found.
NvrtcSearch search_nvrtc(int newest_major);

/// The number in "libnvrtc.so.13" or "libnvrtc.so.12.9.86"; 0 for another name.
int nvrtc_major(const std::string& path);

}  // namespace fa::cuda
