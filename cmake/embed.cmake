# Writes a C++ file that holds every file of a folder as text:
#   cmake -D FOLDER=src/kernels -D OUTPUT=sources.cpp -P embed.cmake
file(GLOB_RECURSE names LIST_DIRECTORIES false RELATIVE ${FOLDER} ${FOLDER}/*)
list(SORT names)

set(entries "")
set(all "")
foreach(name IN LISTS names)
  file(READ ${FOLDER}/${name} text)
  string(APPEND entries "    {\"${name}\", R\"fa_source(${text})fa_source\"sv},\n")
  string(APPEND all "${name}\n${text}\n")
endforeach()
string(SHA256 digest "${all}")

file(WRITE ${OUTPUT} "\
// Made by cmake/embed.cmake from src/kernels.
#include \"cuda/runtime/sources.hpp\"

namespace fa::cuda {

namespace {

using namespace std::string_view_literals;

// A literal with sv knows its length. To count 370,000 characters takes more steps than Clang allows
// for a constant (2^20).
constexpr Source all[] = {
${entries}};

}  // namespace

std::span<const Source> sources() { return all; }

std::string_view sources_digest() { return \"${digest}\"; }

}  // namespace fa::cuda
")
