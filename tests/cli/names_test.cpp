// Names that would steer a terminal, or begin a line of their own, are shown escaped.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "fa/attention.hpp"
#include "program.hpp"
#include "support/io/npy.hpp"
#include "support/io/safetensors.hpp"
#include "system/shown.hpp"

namespace fa::test {
namespace {

const std::string bad = "\x1b[31m\nfa - all is right";
constexpr const char* escaped = "\\u001b[31m\\u000afa - all is right";

std::string quoted(const std::string& text) { return "'" + text + "'"; }

void expect_escaped(const std::string& arguments, const std::string& before, int code) {
  const Ended ended = fa(arguments, before);
  const std::string text = ended.out + ended.err;
  EXPECT_EQ(ended.code, code) << arguments << "\n" << text;
  EXPECT_FALSE(contains(text, "\x1b") || contains(text, "\nfa - all")) << arguments << "\n" << text;
  EXPECT_TRUE(contains(text, escaped)) << arguments << "\n" << text;
}

TEST(Shown, EscapesWhatIsNotPrinted) {
  EXPECT_EQ(system::shown(bad), escaped);
  EXPECT_EQ(system::shown("\xff\xc3\xa9"), "\\xff\xc3\xa9");
  for (const char* mark : {"\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069"}) {
    EXPECT_TRUE(system::shown(mark).starts_with("\\u")) << "turns the direction: " << mark;
  }
  for (const char* unseen : {"\u00ad", "\u180e", "\u200b", "\u200d", "\u2028", "\u2029", "\u2060",
                             "\u2064", "\u206f", "\ufeff", "\ufff9"}) {
    EXPECT_TRUE(system::shown(unseen).starts_with("\\u")) << "is not seen: " << unseen;
  }
  EXPECT_EQ(system::shown("a\u200bb"), "a\\u200bb");
  EXPECT_EQ(system::shown("\U000e0041"), "\\U000e0041");  // a tag
  EXPECT_EQ(system::shown("\U0001d173"), "\\U0001d173");
  for (const char* seen :
       {" ", "\u00a0", "\u00ae", "\u200a", "\u2010", "\u2027", "\u202f", "\ufffd", "\U0001f600"}) {
    EXPECT_EQ(system::shown(seen), seen);
  }
  EXPECT_EQ(system::shown(std::string(1000, 'x')), std::string(1000, 'x'));
  EXPECT_EQ(system::shown_beginning(std::string(1000, 'x')), std::string(64, 'x') + "...");
}

TEST(Names, OfFiles) {
  const TemporaryFolder folder;
  const std::string missing = quoted(folder / bad);
  const std::string q = folder / (bad + ".npy");
  io::Array array(float32, {1, 4, 1, 8});
  {
    io::OutputFile npy(q);
    io::write_npy(npy, q, array);
    npy.commit();
    io::OutputFile tensors(folder / (bad + ".safetensors"));
    const std::vector<std::pair<std::string, const io::Array*>> named{
        {"q", &array}, {"k", &array}, {"v", &array}};
    io::write_safetensors(tensors, named);
    tensors.commit();
  }
  const std::string run = "run --q " + quoted(q) + " --k " + quoted(q) + " --v " + quoted(q);
  const std::string tensors = quoted(folder / (bad + ".safetensors"));
  expect_escaped(run + " --out " + quoted(folder / (bad + "results")), "", 0);
  expect_escaped(run + " --out " + quoted(q), "", 2);
  expect_escaped("run --tensors " + tensors + " --out " + tensors, "", 2);
  expect_escaped("run --tensors " + tensors + " --q none --check", "", 2);
  expect_escaped("run --q " + missing + " --k x --v x --check", "", 2);
  expect_escaped("run --q " + quoted(folder / (bad + "none.npy")) + " --k x --v x --check", "", 2);
  const std::string json = quoted(folder / (bad + "/none"));
  for (const std::string command : {"check", "demo", "bench", "compile --arch sm_80 -o x"}) {
    expect_escaped(fmt::format("{} --json {}", command, json), "", 2);
  }
  expect_escaped("compile --arch sm_80 -o " + missing + " --json " + missing, "", 2);
  expect_escaped("compile --arch sm_80 -o " + json, "", 2);
}

TEST(Names, OfCommandsAndValues) {
  for (const std::string command :
       {"", "check ", "check --device ", "bench --dtype ", "bench --work ",
        "compile --arch sm_80 --list --preset ", "compile --list --arch ",
        "compile --list --arch ,", "check --seed "}) {
    expect_escaped(command + quoted(bad), "", 2);
  }
}

TEST(Names, OfVariables) {
  const TemporaryFolder folder;
  const std::string there = folder / bad;
  write_bytes(there, "text");
  for (const std::string& path : {there, folder / (bad + "none")}) {
    for (const std::string variable : {"FA_NVRTC=", "FA_BUNDLE=", "FA_CACHE_DIR="}) {
      expect_escaped("info", variable + quoted(path), 0);
    }
  }
  expect_escaped("info", "FA_CACHE_DIR=" + quoted(bad), 0);
  expect_escaped("info", "FA_CPU_TARGET=" + quoted(bad), 2);
}

}  // namespace
}  // namespace fa::test
