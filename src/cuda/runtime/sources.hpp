// The device code of src/kernels, embedded in the library as text (cmake/embed.cmake).
#pragma once

#include <span>
#include <string_view>

namespace fa::cuda {

struct Source {
  std::string_view name;  ///< relative to src/kernels, as an #include says it: "common/mask.h"
  std::string_view text;
};

/// All of src/kernels, by name.
std::span<const Source> sources();

/// SHA-256 of all names and texts: kernels built from other sources are other kernels.
std::string_view sources_digest();

}  // namespace fa::cuda
