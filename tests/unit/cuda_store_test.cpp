// Kernels through a real NVRTC (tools/with_nvrtc); no device is needed.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <random>

#include "cuda/launch/precompile.hpp"
#include "cuda/runtime/compiler.hpp"
#include "cuda/runtime/cubin.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda/runtime/nvrtc.hpp"
#include "cuda/runtime/parallel.hpp"
#include "cuda_folder.hpp"
#include "fa/attention.hpp"

namespace {

using namespace fa;
using namespace fa::cuda;
using namespace fa::test;

constexpr Digest test_digest{11, 12};

KernelStore store_in(const std::string& cache, std::vector<Bundle> bundles = {},
                     Digest sources = test_digest) {
  return {test_sources, sources, DiskCache(cache), std::move(bundles)};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

std::string error_of(const std::function<void()>& call, Status status) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), status);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Compiler, CompilesForEveryArchitecture) {
  for (const char* arch : {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"}) {
    const std::vector<char> code = compile(test_spec(3), arch, test_sources);
    ASSERT_GT(code.size(), 500U) << arch;
    EXPECT_EQ(std::string(code.data() + 1, 3), "ELF");
    const std::string bytes(code.begin(), code.end());
    EXPECT_TRUE(contains(bytes, "store")) << "the entry's name";
    EXPECT_EQ(code, compile(test_spec(3), arch, test_sources));
  }
}

TEST(Compiler, TellsItsLog) {
  KernelSpec spec = test_spec(3);
  spec.program = "constexpr int other = 1;\n#include \"test/store.cuh\"\n";
  const std::string error =
      error_of([&] { compile(spec, "sm_80", test_sources); }, Status::internal);
  EXPECT_TRUE(contains(error, "cuda: cannot compile store for sm_80")) << error;
  EXPECT_TRUE(contains(error, "test/store.cuh(3): error: identifier \"value\"")) << error;
  EXPECT_FALSE(contains(error, "never referenced")) << error;

  spec = test_spec(3);
  EXPECT_TRUE(contains(error_of([&] { compile(spec, "sm_12345", test_sources); }, Status::internal),
                       "gpu-architecture"));
  spec.program = "#include \"test/missing.cuh\"\n";
  EXPECT_TRUE(contains(error_of([&] { compile(spec, "sm_80", test_sources); }, Status::internal),
                       "test/missing.cuh"));
}

// A wgmma under a condition that differs between warpgroups: ptxas orders them all, in a note.
TEST(Compiler, RefusesSerializedWgmma) {
  const Source sources[] = {{"test/serial.cuh", R"(
extern "C" __global__ void serial(float* out, unsigned long long a, int n) {
  float d[4] = {};
  for (int i = 0; i < n; ++i) {
    asm volatile("wgmma.fence.sync.aligned;");
    if (threadIdx.x / 128 == i % 3) {
      asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
                   "{%0, %1, %2, %3}, %4, %4, 1, 1, 1, 0, 0;"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a));
    }
    d[0] += 1;
    asm volatile("wgmma.commit_group.sync.aligned;");
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;");
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
)"}};
  KernelSpec spec;
  spec.program = "#include \"test/serial.cuh\"\n";
  spec.entry = "serial";
  EXPECT_TRUE(contains(error_of([&] { compile(spec, "sm_90a", sources); }, Status::internal),
                       "instructions are serialized"));
}

// A cubin tells what the driver would say of the loaded kernel.
TEST(Cubin, TellsWhatAKernelTakes) {
  const Source sources[] = {{"test/uses.cuh", R"(
extern "C" __global__ void little(float* out) { out[threadIdx.x] = 1; }
extern "C" __global__ void __launch_bounds__(128) much(float* out, int n) {
  volatile float local[50];
  for (int i = 0; i < n; ++i) local[i] = out[i];
  float sum[100];
#pragma unroll
  for (int k = 0; k < 100; ++k) sum[k] = 0;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
#pragma unroll
    for (int k = 0; k < 100; ++k) sum[k] = sum[k] * local[i] + k;
  }
#pragma unroll
  for (int k = 0; k < 100; ++k) out[k * n] = sum[k];
}
)"}};
  KernelSpec spec;
  spec.program = "#include \"test/uses.cuh\"\n";
  for (const char* arch : {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"}) {
    const std::vector<char> code = compile(spec, arch, sources);
    const CubinUse little = cubin_use(code, "little"), much = cubin_use(code, "much");
    EXPECT_GT(little.registers, 0);
    EXPECT_LT(little.registers, 32);
    EXPECT_EQ(little.local_bytes, 0);
    EXPECT_GT(much.registers, 100);
    EXPECT_LE(much.registers, 255);
    EXPECT_GE(much.local_bytes, 200);
    EXPECT_NE(little.code, much.code);
    EXPECT_EQ(little.code, cubin_use(compile(spec, arch, sources), "little").code);
    EXPECT_TRUE(contains(error_of([&] { cubin_use(code, "none"); }, Status::internal),
                         "no machine code of none"));
  }
}

TEST(Cubin, RefusesWhatIsDamaged) {
  const std::vector<char> code = compile(test_spec(1), "sm_80", test_sources);
  error_of([] { cubin_use({}, "store"); }, Status::internal);
  std::mt19937 random(1);
  for (size_t bytes = 0; bytes < code.size() * 3 / 4; bytes += 1 + bytes / 50) {
    std::vector<char> cut(code.begin(), code.begin() + static_cast<ptrdiff_t>(bytes));
    error_of([&] { cubin_use(cut, "store"); }, Status::internal);
  }
  for (int n = 0; n < 2000; ++n) {  // an answer or an error, and no read outside
    std::vector<char> changed = code;
    for (int i = 0; i < 4; ++i) changed[random() % code.size()] = static_cast<char>(random());
    try {
      EXPECT_NE(cubin_use(changed, "store").registers, 0);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::internal);
    }
  }
}

TEST(Compiler, EveryEmbeddedHeaderCompilesAlone) {
  for (const Source& source : sources()) {
    KernelSpec spec;
    spec.program = "#include \"" + std::string(source.name) + "\"\n";
    compile(spec, "sm_80");
  }
  EXPECT_EQ(sources_digest().size(), 64U);
}

TEST(KernelStore, AsksDiskThenCompiler) {
  const Folder folder;
  KernelStore first = store_in(folder.path());
  const auto code = first.cubin(test_spec(1), "sm_80");
  EXPECT_EQ(first.counters().compiled, 1);
  EXPECT_GT(first.counters().compile_seconds, 0);

  KernelStore second = store_in(folder.path());
  EXPECT_EQ(*second.cubin(test_spec(1), "sm_80"), *code);
  EXPECT_EQ(second.counters().compiled, 0);
  EXPECT_EQ(second.counters().from_disk, 1);

  // Anything that makes another kernel has it compiled.
  second.cubin(test_spec(2), "sm_80");
  second.cubin(test_spec(1), "sm_90a");
  EXPECT_EQ(second.counters().compiled, 2);
  KernelStore others = store_in(folder.path(), {}, {11, 13});
  others.cubin(test_spec(1), "sm_80");
  EXPECT_EQ(others.counters().compiled, 1);
  EXPECT_EQ(folder.files(".cubin").size(), 4U);

  // A damaged entry is made again.
  for (const std::string& path : folder.files(".cubin")) {
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  }
  KernelStore third = store_in(folder.path());
  EXPECT_EQ(*third.cubin(test_spec(1), "sm_80"), *code);
  EXPECT_EQ(third.counters().compiled, 1);
  EXPECT_EQ(*store_in(folder.path()).cubin(test_spec(1), "sm_80"), *code);
}

TEST(KernelStore, WorksWithoutADisk) {
  KernelStore store(test_sources, test_digest, DiskCache("/proc/none"), {});
  store.cubin(test_spec(1), "sm_80");
  EXPECT_NE(store.cache().problem(), "");  // known since there was something to store
  store.cubin(test_spec(1), "sm_80");
  EXPECT_EQ(store.counters().compiled, 2);
}

TEST(KernelStore, TriesAgainAfterAFailure) {
  const Folder folder;
  KernelStore store = store_in(folder.path());
  KernelSpec wrong = test_spec(1);
  wrong.program = test_program("nothing");
  for (int i = 0; i < 2; ++i) {
    error_of([&] { store.cubin(wrong, "sm_80"); }, Status::internal);
  }
  EXPECT_TRUE(folder.files(".cubin").empty());
  EXPECT_EQ(store.counters().compiled, 0);
}

TEST(KernelStore, CompilesOnceForManyThreads) {
  const Folder folder;
  KernelStore store = store_in(folder.path());
  parallel_for(32, 16,
               [&](int64_t i) { store.cubin(test_spec(static_cast<int>(i % 4)), "sm_80"); });
  EXPECT_EQ(store.counters().compiled, 4);
}

TEST(KernelStore, TakesABundleFirst) {
  const Folder folder;
  const std::string path = folder / "kernels.fab";
  KernelStore maker = store_in(folder / "cache");
  const std::vector<Target> targets{{test_spec(1), "sm_80"}, {test_spec(2), "sm_90a"}};
  int64_t done = 0;
  const auto [bytes, uses] = precompile(maker, path, targets, 2, [&](int64_t now) { done = now; });
  EXPECT_EQ(done, 2);
  EXPECT_EQ(bytes, static_cast<int64_t>(std::filesystem::file_size(path)));
  ASSERT_EQ(uses.size(), 2U);
  EXPECT_GT(uses[1].registers, 0);

  std::vector<Bundle> bundles;
  bundles.emplace_back(path);
  KernelStore store = store_in("/proc/none", std::move(bundles));
  EXPECT_EQ(*store.cubin(test_spec(1), "sm_80"), *maker.cubin(test_spec(1), "sm_80"));
  EXPECT_EQ(store.counters().from_bundle, 1);
  store.cubin(test_spec(2), "sm_80");  // not in it: compiled
  EXPECT_EQ(store.counters().compiled, 1);
}

TEST(KernelStore, WritesNoBundleWhenAKernelFails) {
  const Folder folder;
  KernelStore maker = store_in(folder / "cache");
  KernelSpec wrong = test_spec(1);
  wrong.program = "#include \"test/store.cuh\"\n";
  error_of([&] { precompile(maker, folder / "k.fab", {{wrong, "sm_80"}}, 1, {}); },
           Status::internal);
  error_of([&] { precompile(maker, folder / "none/k.fab", {{test_spec(1), "sm_80"}}, 1, {}); },
           Status::invalid_argument);
  EXPECT_TRUE(folder.files("fab").empty());
  EXPECT_TRUE(folder.files("tmp").empty());
  EXPECT_TRUE(
      contains(error_of([] { preset_targets("none", {"sm_80"}); }, Status::invalid_argument),
               "preset: is \"none\"; allowed are llm"));
  EXPECT_TRUE(contains(error_of([] { preset_targets("llm", {"sm_1"}); }, Status::invalid_argument),
                       "arch: is \"sm_1\"; allowed are sm_80"));
  error_of([] { preset_targets("llm", {}); }, Status::invalid_argument);
}

// Many processes start at once on a cold cache: each kernel is compiled once, or twice where a lock
// came too late; some are killed on the way.
TEST(KernelStore, FiftyProcessesCompileOnce) {
  const Folder folder;
  constexpr int processes = 50, kernels = 2;
  std::vector<pid_t> children;
  for (int p = 0; p < processes; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      KernelStore store = store_in(folder / "cache");
      for (int k = 0; k < kernels; ++k) store.cubin(test_spec(k), "sm_80");
      // The report appears whole or not at all: the process may be killed while it writes.
      const std::string report = folder / ("compiled." + std::to_string(p));
      write_file(report + ".part", std::to_string(store.counters().compiled));
      std::filesystem::rename(report + ".part", report);
      _exit(store.counters().compiled + store.counters().from_disk == kernels ? 0 : 1);
    }
    children.push_back(child);
  }
  for (int p = 0; p < processes; ++p) {
    int status = 0;
    if (p % 10 == 9) kill(children[p], SIGKILL);
    waitpid(children[p], &status, 0);
    if (p % 10 != 9) {
      EXPECT_EQ(status, 0) << p;
    }
  }
  int compiled = 0;
  for (int p = 0; p < processes; ++p) {
    const std::string report = folder / ("compiled." + std::to_string(p));
    if (std::filesystem::exists(report)) compiled += std::stoi(read_file(report));
  }
  EXPECT_LE(compiled, 2 * kernels);
  // One of the killed may have compiled, and not come to say so.
  for (int k = 0; k < kernels; ++k) {
    KernelStore store = store_in(folder / "cache");
    store.cubin(test_spec(k), "sm_80");
    EXPECT_EQ(store.counters().from_disk, 1) << k;
  }
}

}  // namespace
