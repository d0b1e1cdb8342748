#include "common/device_flag.hpp"

#include <regex>

#include "check/cuda_accelerator.hpp"

namespace fa::cli {

support::Flag add_device_flag(const support::Flags& command, std::string& device,
                              const std::string& help) {
  const auto problem = [](const std::string& name) {
    static const std::regex known("cpu|cuda(:[0-9]{1,4})?");
    return std::regex_match(name, known) ? "" : "is " + name + "; allowed are cpu and cuda[:N]";
  };
  return command.value("--device", device, help).check(problem, "cpu|cuda[:N]");
}

std::unique_ptr<check::Accelerator> accelerator_of(const std::string& device) {
  if (device == "cpu") return nullptr;
  const size_t colon = device.find(':');
  return check::cuda_accelerator(colon == std::string::npos ? 0
                                                            : std::stoi(device.substr(colon + 1)));
}

}  // namespace fa::cli
