#include "plan/cuda/kernel_config.hpp"

#include <fmt/format.h>

namespace fa {

void KernelConfig::add(std::string_view type, std::string_view name, std::string_view value,
                       std::string_view shown) {
  members_ += fmt::format("  static constexpr {} {} = {};\n", type, name, value);
  if (!constants_.empty()) constants_ += ' ';
  constants_ += shown.empty() ? std::string(name) : fmt::format("{}={}", name, shown);
}

KernelConfig& KernelConfig::number(std::string_view name, int64_t value) {
  const std::string text = std::to_string(value);
  add("int", name, text, text);
  return *this;
}

KernelConfig& KernelConfig::flag(std::string_view name, bool value, bool by_default) {
  if (value != by_default) add("bool", name, value ? "true" : "false", value ? "" : "false");
  return *this;
}

KernelConfig& KernelConfig::format(std::string_view name, bool given, DType dtype) {
  if (!given) return *this;
  const char* format = dtype == float32 ? "float32" : dtype == bfloat16 ? "bfloat16" : "float16";
  add("fa::kernel::Number", name, fmt::format("fa::kernel::Number::{}", format), format);
  return *this;
}

KernelSpec kernel_spec(const KernelSource& source, const KernelConfig& config, int threads,
                       int min_blocks, int shared_bytes) {
  std::string program;
  for (const std::string_view file : source.includes) {
    program += fmt::format("#include \"{}\"\n", file);
  }
  const std::string bounds =
      min_blocks > 0 ? fmt::format("{}, {}", threads, min_blocks) : std::to_string(threads);
  const std::string cluster =
      source.cluster > 1 ? fmt::format("__cluster_dims__({}, 1, 1) ", source.cluster) : "";
  program += fmt::format(
      "struct Config : {} {{\n{}}};\nusing Kernel = {};\n"
      "extern \"C\" __global__ void {}__launch_bounds__({})\n"
      "    {}(const __grid_constant__ Kernel::Params p) {{\n  Kernel::run(p);\n}}\n",
      source.defaults, config.members(), source.kernel, cluster, bounds, source.entry);
  return {std::string(source.entry),
          std::move(program),
          config.constants(),
          threads,
          min_blocks,
          shared_bytes};
}

}  // namespace fa
