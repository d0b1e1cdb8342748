// The commands of fa and their exit codes: 0 right, 1 a wrong result, 2 wrong usage.
#include "program.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "check/verdict.hpp"
#include "fa/attention.hpp"

namespace fa::test {
namespace {

using nlohmann::json;

TEST(Program, HelpsWithExamples) {
  EXPECT_EQ(fa("--help").code, 0);
  EXPECT_EQ(fa("--version").out, std::string("fa ") + version() + "\n");
  for (const std::string command : {"demo", "run", "check", "bench", "info", "compile"}) {
    const Ended help = fa(command + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_TRUE(contains(help.out, "Examples:\n  fa " + command) || command == "check") << help.out;
    EXPECT_TRUE(contains(help.out, "Examples:")) << help.out;
  }
}

TEST(Program, WrongUsageIsTwo) {
  for (const char* wrong : {"",
                            "nothing",
                            "run --no-such-flag",
                            "check --count 0",
                            "check --count many",
                            "demo --threads -1",
                            "bench --dtype int8",
                            "bench --work sideways",
                            "info --plan --dtype x",
                            "info --plan --head-dim 7",
                            "info --causal",
                            "check --seed -3",
                            "demo --seed -3",
                            "bench --seed -3",
                            "bench --device cuda",
                            "bench --host-time --device tpu",
                            "run --check --dropout-seed -3",
                            "info --plan --dropout-offset -3",
                            "info --plan --heads 3 --heads-k 2",
                            "demo --json",
                            "check --index 3 --count 7",
                            "compile",
                            "compile --arch sm_1 --list",
                            "compile --arch sm_80 --preset none --list",
                            "compile --arch sm_80 --threads -1 --list",
                            "info --plan --packed --max-seqlen-q 5",
                            "check --count 1 --seed 18446744073709551616",
                            "run --check --dropout-seed 99999999999999999999999",
                            "demo --seed 0x10000000000000000"}) {
    const Ended run = fa(wrong);
    EXPECT_EQ(run.code, 2) << wrong << run.out << run.err;
    EXPECT_FALSE(run.err.empty()) << wrong;
  }
}

TEST(Program, TellsWhatItFindsOfCuda) {
  const std::string nothing = "HOME= FA_NVRTC=/none FA_CACHE=0 FA_BUNDLE=";
  const Ended info = fa("info", nothing);
  EXPECT_EQ(info.code, 0) << info.err;
  EXPECT_TRUE(contains(info.out, "\ncuda driver ")) << info.out;
  EXPECT_TRUE(contains(info.out, "FA_NVRTC: \"/none\" does not exist")) << info.out;
  EXPECT_TRUE(contains(info.out, "not used: FA_CACHE is 0")) << info.out;
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  write_bytes(text, "text");
  const Ended other = fa("info", "FA_CACHE=0 FA_BUNDLE= FA_NVRTC='" + text + "'");
  EXPECT_TRUE(contains(other.out, "FA_NVRTC: names no NVRTC that can be used: /")) << other.out;
  EXPECT_TRUE(contains(other.out, "/text: ")) << other.out;
  EXPECT_FALSE(contains(other.out, "install one")) << other.out;
  const Ended library = fa("info", "FA_CACHE=0 FA_BUNDLE= FA_NVRTC='" FA_WRONG_LIBRARY "'");
  EXPECT_TRUE(contains(library.out, " (lacks nvrtc")) << library.out;
  const Ended bundle = fa("info", "FA_BUNDLE=/none");
  EXPECT_EQ(bundle.code, 0);
  EXPECT_TRUE(contains(bundle.out, "FA_BUNDLE: /none: No such file")) << bundle.out;
}

/// "LD_LIBRARY_PATH=dir:" is a common slip: what is empty is the current directory.
TEST(Program, TakesNoDriverFromTheCurrentDirectory) {
  const TemporaryFolder folder;
  for (const char* name : {"libcuda.so.1", "libnvrtc.so.12", "libnvrtc.so.13"}) {
    write_bytes(folder / name, "text");
  }
  for (const char* path : {":", ".", "/none:"}) {
    const Ended info = fa("info", "cd '" + folder.path() + "'; FA_CACHE=0 LD_LIBRARY_PATH=" + path);
    EXPECT_EQ(info.code, 0) << info.err;
    EXPECT_FALSE(contains(info.out, "file too short")) << info.out;
    EXPECT_FALSE(contains(info.out, "invalid ELF")) << info.out;
  }
}

TEST(Program, InfoMakesNoFolder) {
  const TemporaryFolder folder;
  const Ended info = fa("info", "HOME='" + folder.path() + "' XDG_CACHE_HOME= FA_CACHE_DIR=");
  EXPECT_EQ(info.code, 0) << info.err;
  EXPECT_TRUE(contains(info.out, "/.cache/fa-kernels, 0 kernels")) << info.out;
  EXPECT_FALSE(std::filesystem::exists(folder / ".cache"));  // a driver makes .nv
}

TEST(Program, NamesWhatIsWrong) {
  EXPECT_TRUE(contains(fa("compile --arch sm_1 --list").err, "allowed are sm_80"));
  EXPECT_TRUE(contains(fa("compile --arch sm_80 --preset x --list").err, "allowed are llm"));
  EXPECT_TRUE(contains(fa("nonsense").err, "\"nonsense\" is not a command"));
  EXPECT_TRUE(contains(fa("info --causal").err, "--plan"));
  EXPECT_TRUE(contains(fa("check --count 1 --seed -3").err, "--seed"));
  EXPECT_EQ(fa("check --count 1 --seed 18446744073709551615").code, 0);
  const Ended seed = fa("check --seed 18446744073709551616");
  EXPECT_TRUE(contains(seed.err, "--seed: is 18446744073709551616; allowed are 0 to")) << seed.err;
  const Ended packed = fa("info --plan --packed --batch 3000 --seqlen 1000000");
  EXPECT_EQ(packed.code, 2);
  EXPECT_TRUE(contains(packed.err, "--batch: 3000 with --seqlen 1000000")) << packed.err;
  const Ended keys = fa("info --plan --packed --batch 3000 --seqlen 1 --seqlen-k 1000000");
  EXPECT_TRUE(contains(keys.err, "--batch: 3000 with --seqlen-k 1000000")) << keys.err;
  EXPECT_EQ(fa("info --plan --packed --batch 2 --seqlen 1000000").code, 0);
}

/// Before anything is computed, and without a trace.
TEST(Program, RefusesResultFilesThatItCannotWrite) {
  const TemporaryFolder folder;
  const std::string taken = folder / "taken";
  std::filesystem::create_directory(taken);
  for (const std::string command :
       {"demo --json ", "bench --json ", "bench --host-time --json ", "check --json "}) {
    for (const std::string& file : {folder / "no/such/folder", taken}) {
      const Ended run = fa(command + file);
      EXPECT_EQ(run.code, 2) << run.out;
      EXPECT_TRUE(contains(run.err, file + ": ")) << run.err;
      EXPECT_TRUE(run.out.empty()) << run.out;
    }
  }
  const std::string old = folder / "old.json";
  write_bytes(old, "old");
  EXPECT_EQ(fa("bench --work decode --rotation 1 --json " + old).code, 2);
  EXPECT_EQ(fa("bench --work decode --rotation 1 --json " + (folder / "new.json")).code, 2);
  EXPECT_EQ(read_bytes(old), "old");
  EXPECT_EQ(folder.entries(), 2U);
}

/// stdout then has the JSON alone, for another program to read.
TEST(Program, WritesJsonToStdout) {
  for (const std::string path : {"/dev/stdout", "-", "/dev/fd/1"}) {
    const Ended check = fa("check --count 3 --json " + path);
    EXPECT_EQ(check.code, 0) << check.err;
    EXPECT_EQ(json::parse(check.out)["problems"], 3);
    EXPECT_TRUE(contains(check.err, "check passed: all 3")) << check.err;
  }
  EXPECT_FALSE(std::filesystem::exists("-"));
}

TEST(Program, WritesJsonToWhatIsNoFile) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  const Ended piped =
      fa("check --count 3 --json " + pipe,
         "mkfifo " + pipe + "; timeout 60 cat " + pipe + " > " + (folder / "read") + " & ");
  EXPECT_EQ(piped.code, 0) << piped.err;
  EXPECT_TRUE(contains(piped.out, "check passed: all 3")) << piped.out;
  EXPECT_TRUE(std::filesystem::is_fifo(pipe)) << "not replaced";
  EXPECT_EQ(fa("check --count 3 --json /dev/null").code, 0);
  const Ended full = fa("check --count 3 --json /dev/full");
  EXPECT_EQ(full.code, 2);
  EXPECT_EQ(full.err, "fa: /dev/full: cannot be written: No space left on device\n");
  const Ended directory = fa("check --count 3 --json " + folder.path());
  EXPECT_EQ(directory.code, 2);
  EXPECT_EQ(directory.err, "fa: " + folder.path() + ": cannot be written: it is a folder\n");
  const Ended both = fa("check --count 3 --json /dev/stderr");
  EXPECT_EQ(json::parse(both.err)["problems"], 3) << both.err;
}

TEST(Program, BenchOfHostTimeIsPrintedAndWritten) {
  const TemporaryFolder folder;
  const Ended run = fa("bench --host-time --json " + (folder / "times.json"));
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, "Plan::run, us\n   16    16     2/2   64")) << run.out;
  EXPECT_TRUE(contains(read_bytes(folder / "times.json"), "\"plan_run_seconds\": ["));
}

TEST(Program, FullDiskBehindStdoutIsTwo) {
  const TemporaryFolder folder;
  for (const std::string command : {"info", "--help", "check --count 1"}) {
    const int status =
        std::system(("'" FA_PROGRAM "' " + command + " >/dev/full 2>" + (folder / "err")).c_str());
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 2) << command;
    EXPECT_TRUE(contains(read_bytes(folder / "err"), "cannot be printed")) << command;
  }
}

TEST(Program, WritesNoJsonBesideWhatItCannotPrint) {
  const TemporaryFolder folder;
  const std::string json = folder / "a.json";
  for (std::string command :
       {"check --count 1", "demo --length 64 --max-growth 0", "bench --host-time"}) {
    command += " --json " + json;
    for (const char* out : {" >/dev/full 2>/dev/null", " >&- 2>/dev/null"}) {
      const int status = std::system(("'" FA_PROGRAM "' " + command + out).c_str());
      ASSERT_TRUE(WIFEXITED(status));
      EXPECT_EQ(WEXITSTATUS(status), 2) << command << out;
      EXPECT_EQ(folder.entries(), 0U) << command << out;
    }
  }
}

TEST(Program, FindsAClosedStdoutBeforeItComputes) {
  const TemporaryFolder folder;
  const int status = std::system(
      ("'" FA_PROGRAM "' check --count 1000000000000 --json - >&- 2>" + (folder / "err")).c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 2);
  EXPECT_EQ(read_bytes(folder / "err"), "fa: -: cannot be written: Bad file descriptor\n");
}

TEST(Program, ShowsNoProgressBarToFiles) {
  const Ended run = fa("check --count 30");
  EXPECT_EQ(run.code, 0);
  EXPECT_TRUE(run.err.empty()) << run.err;
}

TEST(Program, WipesTheProgressBarBeforeItPrints) {
  for (const std::string command : {"check --count 100", "demo --length 64 --max-growth 0"}) {
    const Ended run = fa_on_terminal(command, "TERM=xterm");
    if (run.code == -2) GTEST_SKIP() << "no terminal here";
    EXPECT_EQ(run.code, 0) << run.out;
    EXPECT_TRUE(contains(run.out, "[...")) << "a bar: " << run.out;
    EXPECT_FALSE(contains(run.out, "\x1b")) << "no escape codes: " << run.out;
    EXPECT_FALSE(contains(shown(run.out), "...]")) << shown(run.out);
  }
  const Ended check = fa_on_terminal("check --count 100 --seed 3", "TERM=xterm");
  EXPECT_EQ(shown(check.out), fa("check --count 100 --seed 3").out);
}

TEST(Program, ShowsNoProgressBarToADumbTerminal) {
  for (const std::string term : {"TERM=dumb", "TERM=dumb NO_COLOR=1"}) {
    const Ended run = fa_on_terminal("check --count 100 --seed 3", term);
    if (run.code == -2) GTEST_SKIP() << "no terminal here";
    std::string lines = run.out;
    std::erase(lines, '\r');  // of the terminal's line ends
    EXPECT_EQ(lines, fa("check --count 100 --seed 3").out);
  }
}

TEST(Program, CheckSaysWhatItComparedBesides) {
  const std::string text = fa("check --count 100").out;
  EXPECT_TRUE(contains(text, "problems computed a second time, and the results compared: "))
      << text;
  EXPECT_TRUE(contains(text, " one sequence at a time\n")) << text;
  EXPECT_FALSE(contains(text, " 0 ")) << "what did not happen is not told: " << text;
}

TEST(Program, CountsInWords) {
  EXPECT_TRUE(contains(fa("check --count 1").out, "check passed: the problem is right\n"));
  EXPECT_TRUE(contains(fa("check --count 2").out, "check passed: all 2 problems are right\n"));
}

TEST(Program, Info) {
  const Ended info = fa("info");
  EXPECT_EQ(info.code, 0);
  EXPECT_TRUE(contains(info.out, version()));
  EXPECT_TRUE(contains(info.out, std::string("instruction set  ") + cpu_target())) << info.out;
  const Ended plan = fa("info --plan --packed --batch 3 --seqlen 100 --sinks --alibi --softcap 9");
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_TRUE(contains(plan.out, "pass: forward")) << plan.out;
  EXPECT_TRUE(contains(plan.out, "pass: backward")) << plan.out;
  EXPECT_TRUE(contains(plan.out, "workspace")) << plan.out;
}

TEST(Program, InfoPlansForAGpuThatIsNotHere) {
  const auto plan = [](const std::string& flags) {
    const Ended ended = fa("info --plan --arch " + flags);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return ended.out;
  };
  const std::string many = plan("sm_90a --dtype float16 --seqlen 8192 --causal");
  EXPECT_TRUE(contains(many, "device: cuda, sm_90a with 132 multiprocessors\ndtype: float16"))
      << many;
  EXPECT_TRUE(contains(many, "combine kernel: none\n")) << many;
  EXPECT_TRUE(contains(many, "pass: backward")) << many;
  const std::string wide = plan("sm_90a --head-dim 576 --head-dim-v 512");
  EXPECT_TRUE(contains(wide, "kernel: fa_sm80_backward (")) << wide;
  const std::string few = plan("sm_80 --packed --heads 8 --seqlen 1 --seqlen-k 65536");
  EXPECT_TRUE(contains(few, "device: cuda, sm_80 with 108 multiprocessors\n")) << few;
  EXPECT_TRUE(contains(few, "combine kernel: fa_combine (")) << few;
  EXPECT_TRUE(contains(fa("info --plan --arch sm_1").err, "--arch: sm_1 not in"));
  EXPECT_TRUE(contains(fa("info --arch sm_80").err, "--plan"));
  EXPECT_TRUE(contains(fa("info --plan --arch sm_80 --dtype float32").err, "q: is float32"));
}

TEST(Program, Check) {
  const Ended run = fa("check --count 60 --seed 5 --pairs");
  EXPECT_EQ(run.code, 0) << run.out;
  const std::string replay = "replay it with: fa check";
  ASSERT_TRUE(contains(run.out, replay)) << run.out;
  const size_t begin = run.out.find(replay) + std::string("replay it with: fa ").size();
  const Ended again = fa(run.out.substr(begin, run.out.find('\n', begin) - begin));
  EXPECT_EQ(again.code, 0) << again.out;
  const auto worst = [](const std::string& text) {
    const size_t at = text.find("largest error: ");
    return text.substr(at, text.find('\n', at) - at);
  };
  EXPECT_EQ(worst(again.out), worst(run.out));
}

TEST(Program, Demo) {
  const TemporaryFolder folder;
  const std::string file = folder / "demo.json";
  const Ended run = fa("demo --length 128 --max-growth 1024 --json " + file);
  ASSERT_EQ(run.code, 0) << run.out << run.err;
  EXPECT_TRUE(contains(run.out, "demo passed")) << run.out;
  const json result = json::parse(read_bytes(file));
  ASSERT_EQ(result.at("models").size(), 4u);
  const double float32_peak = result.at("peak_flops_per_second");
  const double bfloat16_peak = result.at("bfloat16_peak_flops_per_second");
  const bool own =
      std::string(cpu_target()).ends_with("_bf16") || std::string(cpu_target()).ends_with("_amx");
  EXPECT_EQ(bfloat16_peak != float32_peak, own) << "of its own arithmetic";
  for (const json& model : result.at("models")) {
    const double peak = model.at("dtype") == "bfloat16" ? bfloat16_peak : float32_peak;
    const json& forward = model.at("forward");
    const double rate = forward.at("flops_per_second");
    EXPECT_DOUBLE_EQ(forward.at("share_of_peak").get<double>(), rate / peak);
  }
  for (const json& model : result.at("models")) {
    for (const char* tensor : {"out", "lse", "dq", "dk", "dv"}) {
      EXPECT_LE(model.at("errors").at(tensor).at("error_over_bound"), 1) << model.dump(2);
    }
  }
  const json& growth = result.at("growth").at(0);
  EXPECT_EQ(growth.at("plain_forward").at("told_bytes"), 4 * 1024 * 1024 * 4);
  if (!growth.at("forward").at("measured_bytes").is_null()) {
    EXPECT_GT(growth.at("plain_forward").at("measured_bytes"), 4 * 1024 * 1024 * 4);
  }
}

TEST(Program, Bench) {
  const TemporaryFolder folder;
  const std::string file = folder / "bench.json";
  const Ended run =
      fa("bench --dtype bfloat16 --seqlen 128 --tokens 128 --hidden 128 --head-dim 64 --rounds 2 "
         "--rotation 300 --json " +
         file);
  ASSERT_EQ(run.code, 0) << run.out << run.err;
  const json result = json::parse(read_bytes(file));
  EXPECT_EQ(result.at("peak_flops_per_second").size(), 2u);
  EXPECT_EQ(result.at("cells").size(), 2u + 2u + 3u) << "forward, backward, decode";
  for (const json& cell : result.at("cells")) {
    EXPECT_EQ(cell.at("seconds").size(), 2u);
    EXPECT_TRUE(cell.at("right").get<bool>());
  }
  EXPECT_EQ(fa("bench --work decode --rotation 1").code, 2) << "keys longer than the rotation";
}

/// With a library in between whose forward pass is wrong, everything that compares must notice.
TEST(Program, WrongResultIsOne) {
  const std::string preload = "LD_PRELOAD='" FA_WRONG_LIBRARY "'";
  const TemporaryFolder folder;
  const std::string tensors = "run --tensors " FA_TEST_DATA "/minilm_qkv.safetensors --check";
  const Ended run = fa(tensors + " --out " + (folder / "out"), preload);
  EXPECT_EQ(run.code, 1) << run.out << run.err;
  EXPECT_TRUE(contains(run.out, "WRONG")) << run.out;
  EXPECT_EQ(folder.entries(), 0u) << "nothing is written";
  EXPECT_EQ(fa("demo --length 128 --max-growth 0", preload).code, 1);
  EXPECT_EQ(fa("check --count 20", preload).code, 1);
  EXPECT_EQ(fa("bench --work forward --seqlen 64 --rounds 1", preload).code, 1);
}

constexpr double infinity = std::numeric_limits<double>::infinity();

check::TensorVerdict verdict_of(DType dtype, const check::Number& number) {
  check::TensorVerdict verdict("x", dtype, dtype);
  verdict.add(number);
  EXPECT_EQ(verdict.right(), verdict.problem().empty()) << verdict.problem();
  return verdict;
}

TEST(Verdict, HoldsErrorsAgainstTheirBound) {
  const auto ratio = [](double ours, double exact, double plain) {
    return verdict_of(float32, {ours, exact, plain, std::fabs(exact)}).ratio();
  };
  EXPECT_EQ(ratio(1, 1, 1), 0);
  EXPECT_LT(ratio(1.001, 1, 1.001), 1);
  EXPECT_GT(ratio(1.003, 1, 1.001), 1);
  EXPECT_LT(ratio(1 + 0x1p-22, 1, 1), 1) << "a few roundings are allowed";
  EXPECT_EQ(ratio(std::nan(""), 1, 1), infinity);
  EXPECT_EQ(ratio(infinity, 1, 1), infinity);
  EXPECT_EQ(ratio(1, 0, 0), infinity);
  EXPECT_EQ(ratio(-infinity, -infinity, -infinity), 0);
  EXPECT_EQ(ratio(1, -infinity, -infinity), infinity);
  EXPECT_LT(verdict_of(float32, {1.001, 1, infinity, 1e4}).ratio(), 1);
  EXPECT_LT(verdict_of(float32, {1e300, 1e300, 1e300, 1e300}).ratio(), 1) << "squares overflow";
}

TEST(Verdict, HoldsEveryNumberAgainstItsOwnBound) {
  check::TensorVerdict verdict("x", float32, float32);
  for (int i = 0; i < 1000; ++i) verdict.add({1000, 1000, 1000, 1000});
  verdict.add({1.01, 1, 1, 1});
  EXPECT_LT(verdict.ratio(), 1);
  EXPECT_FALSE(verdict.right());
  EXPECT_TRUE(contains(verdict.problem(), "number 1000 is 1.01, expected 1"));
}

TEST(Verdict, TakesInfinityForWhatDoesNotFit) {
  const auto right = [](DType dtype, double ours, double exact) {
    return verdict_of(dtype, {ours, exact, exact, std::fabs(exact)}).right();
  };
  EXPECT_TRUE(right(float16, infinity, 65520));
  EXPECT_TRUE(right(float16, -infinity, -120000));
  EXPECT_FALSE(right(float16, -infinity, 120000));
  EXPECT_FALSE(right(float16, std::nan(""), 120000));
  EXPECT_FALSE(right(float16, infinity, 65504));
  EXPECT_FALSE(right(float16, 1000, 120000));
  EXPECT_FALSE(right(float32, infinity, 120000));
  EXPECT_FALSE(right(bfloat16, infinity, 120000));
  EXPECT_TRUE(right(bfloat16, infinity, 0x1.ffp127));
  EXPECT_TRUE(right(float32, -infinity, -1e39));
}

}  // namespace
}  // namespace fa::test
