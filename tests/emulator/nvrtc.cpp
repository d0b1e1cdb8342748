// An NVRTC that compiles kernels for the emulator: the host's compiler, with tests/emulator/kernels
// in place of src/kernels/ptx.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/runtime/nvrtc_api.hpp"
#include "emulator/image.hpp"

using fa::cuda::nvrtc_error_compilation;
using fa::cuda::nvrtc_success;
using fa::cuda::nvrtcProgram;
using fa::cuda::nvrtcResult;

namespace {

namespace fs = std::filesystem;

struct Program {
  std::string text, log, image;
  std::map<std::string, std::string> headers;
};
Program& of(nvrtcProgram program) { return *reinterpret_cast<Program*>(program); }

std::string content(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// Each kernel as the emulator calls it, by the address of its parameters, and how many blocks its
/// clusters have.
std::string calls(const Program& program) {
  std::ostringstream text;
  const std::regex kernel(
      R"((?:__cluster_dims__\(([^,()]+), 1, 1\)\s+)?(?:__launch_bounds__\([^()]*\)\s+)?)"
      R"((fa_\w+)\(\s*const __grid_constant__ ([\w:]+) p\))");
  // In the program itself, or in a file that it includes.
  std::vector<std::string> places{program.text};
  for (const auto& [name, header] : program.headers) {
    if (program.text.find("#include \"" + name + "\"") != std::string::npos) {
      places.push_back(header);
    }
  }
  for (const std::string& code : places) {
    for (std::sregex_iterator i(code.begin(), code.end(), kernel), end; i != end; ++i) {
      const std::string cluster = (*i)[1].matched ? (*i)[1].str() : "1";
      const std::string entry = (*i)[2].str(), params = (*i)[3].str();
      text << "void emulator_call_" << entry << "(const void* p) { " << entry
           << "(*static_cast<const " << params << "*>(p)); }\n"
           << "extern const unsigned emulator_cluster_" << entry << " = " << cluster << ";\n";
    }
  }
  return text.str();
}

bool compile(Program& program, const std::string& arch) {
  std::string folder = (fs::temp_directory_path() / "fa-emulator.XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return false;
  const fs::path root = folder;
  for (const auto& [name, header] : program.headers) {
    if (name.starts_with("ptx/")) continue;
    fs::create_directories((root / name).parent_path());
    std::ofstream(root / name) << header;
  }
  std::ofstream(root / "kernel.cpp") << "#include \"emulator.hpp\"\n"
                                     << program.text << "#pragma GCC visibility push(default)\n"
                                     << "extern \"C\" {\nvoid emulator_bind(const "
                                        "emulator::Runtime* r) { emulator::runtime = r; }\n"
                                     << calls(program) << "}\n";
  const std::string number = arch.substr(arch.find('_') + 1, 2);
  const auto quoted = [](const std::string& path) { return "'" + path + "'"; };
  const std::string command =
      quoted(FA_EMULATOR_COMPILER) +
      " " FA_EMULATOR_OPTIONS
      " -std=c++20 -O1 -w -fPIC -shared -fvisibility=hidden -fno-gnu-unique -D__CUDA_ARCH__=" +
      number + "0 -I" + quoted(FA_EMULATOR_KERNELS) + " -I" + quoted(folder) + " " +
      quoted(folder + "/kernel.cpp") + " -o " + quoted(folder + "/kernel.so") + " 2> " +
      quoted(folder + "/log");
  const bool compiled = std::system(command.c_str()) == 0;
  program.log = content(root / "log");
  if (compiled) {
    const std::string library = content(root / "kernel.so");
    emulator::Image image{{}, library.size()};
    std::memcpy(image.magic, emulator::image_magic, sizeof image.magic);
    program.image.assign(reinterpret_cast<const char*>(&image), sizeof image);
    program.image += library;
  }
  fs::remove_all(root);
  return compiled;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) nvrtcResult

API nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return nvrtc_success;
}
API nvrtcCreateProgram(nvrtcProgram* program, const char* text, const char*, int header_count,
                       const char* const* headers, const char* const* header_names) {
  auto* made = new Program;
  made->text = text;
  for (int i = 0; i < header_count; ++i) made->headers[header_names[i]] = headers[i];
  *program = reinterpret_cast<nvrtcProgram>(made);
  return nvrtc_success;
}
API nvrtcCompileProgram(nvrtcProgram program, int option_count, const char* const* options) {
  std::string arch;
  for (int i = 0; i < option_count; ++i) {
    const std::string option = options[i];
    if (option.starts_with("--gpu-architecture=")) arch = option.substr(option.find('=') + 1);
  }
  return compile(of(program), arch) ? nvrtc_success : nvrtc_error_compilation;
}
API nvrtcDestroyProgram(nvrtcProgram* program) {
  delete reinterpret_cast<Program*>(*program);
  *program = nullptr;
  return nvrtc_success;
}
API nvrtcGetProgramLogSize(nvrtcProgram program, size_t* bytes) {
  *bytes = of(program).log.size() + 1;
  return nvrtc_success;
}
API nvrtcGetProgramLog(nvrtcProgram program, char* log) {
  std::memcpy(log, of(program).log.c_str(), of(program).log.size() + 1);
  return nvrtc_success;
}
API nvrtcGetCUBINSize(nvrtcProgram program, size_t* bytes) {
  *bytes = of(program).image.size();
  return nvrtc_success;
}
API nvrtcGetCUBIN(nvrtcProgram program, char* cubin) {
  std::memcpy(cubin, of(program).image.data(), of(program).image.size());
  return nvrtc_success;
}
