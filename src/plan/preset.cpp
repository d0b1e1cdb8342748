#include "plan/preset.hpp"

namespace fa {

std::vector<std::string> presets() { return {"llm"}; }

std::vector<KernelSpec> preset_kernels(const std::string&, const std::string&) { return {}; }

}  // namespace fa
