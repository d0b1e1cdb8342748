#include "cuda/runtime/compiler.hpp"

#include <fmt/format.h>

#include "cuda/runtime/nvrtc.hpp"
#include "fa/attention.hpp"

namespace fa::cuda {

namespace {

/// A program of NVRTC's, while it is compiled.
class Program {
 public:
  Program(const Nvrtc& nvrtc, const std::string& text, std::span<const Source> headers)
      : nvrtc_(nvrtc) {
    // NVRTC wants texts that end with a 0; a view need not.
    std::vector<std::string> kept;
    std::vector<const char*> names, texts;
    kept.reserve(2 * headers.size());
    for (const Source& header : headers) {
      names.push_back(kept.emplace_back(header.name).c_str());
      texts.push_back(kept.emplace_back(header.text).c_str());
    }
    created_ = nvrtc_.create(&program_, text.c_str(), "kernel.cu", static_cast<int>(names.size()),
                             texts.data(), names.data()) == nvrtc_success;
  }
  ~Program() {
    if (created_) nvrtc_.destroy(&program_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  bool compile(const std::string& arch) {
    const std::string target = "--gpu-architecture=" + arch;
    std::vector<const char*> options{target.c_str()};
    options.insert(options.end(), std::begin(compile_options), std::end(compile_options));
    // NVRTC has a cache of its own since 12.9, which works where a driver is. Code from that cache
    // comes without the log that says what ptxas serialized. DiskCache keeps the kernels instead.
    if (nvrtc_.major > 12 || (nvrtc_.major == 12 && nvrtc_.minor >= 9)) {
      options.push_back("--no-cache");
    }
    return created_ && nvrtc_.compile(program_, static_cast<int>(options.size()), options.data()) ==
                           nvrtc_success;
  }

  std::string log() const {
    size_t bytes = 0;
    if (!created_ || nvrtc_.log_size(program_, &bytes) != nvrtc_success) return {};
    std::string text(bytes, '\0');
    nvrtc_.log(program_, text.data());
    text.resize(text.find_last_not_of(std::string_view("\0\n", 2)) + 1);
    return text;
  }

  /// Empty when there is none.
  std::vector<char> cubin() const {
    size_t bytes = 0;
    if (nvrtc_.cubin_size(program_, &bytes) != nvrtc_success) return {};
    std::vector<char> code(bytes);
    if (nvrtc_.cubin(program_, code.data()) != nvrtc_success) return {};
    return code;
  }

 private:
  const Nvrtc& nvrtc_;
  nvrtcProgram program_ = nullptr;
  bool created_ = false;
};

}  // namespace

std::vector<char> compile(const KernelSpec& spec, const std::string& arch,
                          std::span<const Source> headers, std::string* warnings) {
  const Nvrtc& compiler = nvrtc();
  Program program(compiler, spec.program, headers);
  const bool compiled = program.compile(arch);
  const std::string log = program.log();
  std::vector<char> code = compiled ? program.cubin() : std::vector<char>();
  // ptxas says so in a note only, where it orders wgmma one after the other: several times slower.
  const bool serialized = log.find("serialized") != std::string::npos;
  if (code.empty() || serialized) {
    throw Error(
        Status::internal,
        fmt::format("cuda: cannot compile {} for {} with NVRTC {}.{} ({}):\n{}\n{}", spec.entry,
                    arch, compiler.major, compiler.minor, compiler.path, log, spec.program));
  }
  if (warnings != nullptr) *warnings = log;
  return code;
}

}  // namespace fa::cuda
