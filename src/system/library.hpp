// Shared libraries that are opened by their bare name.
#pragma once

#include <string>
#include <vector>

namespace fa::system {

/// The folders in which the loader looks for libraries, LD_LIBRARY_PATH and the system's, without
/// relative ones.
std::vector<std::string> loader_folders();

/// dlopen() of a bare name such as libcuda.so.1, null where it fails, for the reason in `problem`.
/// Never a library of the current directory: where LD_LIBRARY_PATH has an empty or relative element
/// ("dir:" is a common slip), only the other folders are searched.
void* open_library(const std::string& name, std::string& problem);

}  // namespace fa::system
