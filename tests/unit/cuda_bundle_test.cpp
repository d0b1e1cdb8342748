// Bundles under faults: what FA_BUNDLE names and cannot be read is an error that names it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <functional>

#include "cuda/runtime/bundle.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda_folder.hpp"
#include "fa/attention.hpp"

namespace {

using namespace fa;
using namespace fa::cuda;
using namespace fa::test;

constexpr Digest made_of{5, 6};

std::vector<BundleEntry> entries() {
  return {{{2, 2}, {'t', 'w', 'o'}}, {{1, 9}, {}}, {{1, 1}, {'o', 'n', 'e', '!'}}, {{2, 2}, {'x'}}};
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::invalid_argument);
    return error.what();
  }
  return "";
}

TEST(Bundle, GivesBackWhatWasWritten) {
  const Folder folder;
  const std::string path = folder / "kernels.fab";
  const int64_t bytes = write_bundle(path, made_of, entries());
  EXPECT_EQ(bytes, static_cast<int64_t>(std::filesystem::file_size(path)));
  const Bundle bundle(path);
  EXPECT_EQ(bundle.size(), 3U);
  EXPECT_EQ(bundle.sources(), made_of);
  EXPECT_EQ(bundle.load({1, 1}), (std::vector<char>{'o', 'n', 'e', '!'}));
  EXPECT_EQ(bundle.load({1, 9}), std::vector<char>());
  EXPECT_TRUE(bundle.load({2, 2}).has_value());
  for (const Digest& key : {Digest{0, 0}, Digest{1, 2}, Digest{3, 0}}) {
    EXPECT_EQ(bundle.load(key), std::nullopt);
  }
  write_bundle(path, made_of, {});
  EXPECT_EQ(Bundle(path).size(), 0U);
  EXPECT_EQ(bundle.load({1, 1}), (std::vector<char>{'o', 'n', 'e', '!'}));  // the file it opened
  EXPECT_EQ(folder.files().size(), 1U);
}

TEST(Bundle, NamesTheFileThatIsDamaged) {
  const Folder folder;
  const std::string path = folder / "kernels.fab";
  write_bundle(path, made_of, entries());
  const std::string whole = read_file(path);
  const auto read_all = [&] {
    const Bundle bundle(path);
    EXPECT_EQ(bundle.sources(), made_of);
    for (const BundleEntry& entry : entries()) EXPECT_TRUE(bundle.load(entry.key).has_value());
  };
  EXPECT_EQ(error_of(read_all), "");
  for (size_t i = 0; i < whole.size(); ++i) {
    write_file(path, whole.substr(0, i));
    EXPECT_NE(error_of(read_all).find("FA_BUNDLE: " + path), std::string::npos) << "length " << i;
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << i % 8));
    write_file(path, flipped);
    EXPECT_NE(error_of(read_all).find("FA_BUNDLE: " + path), std::string::npos) << "byte " << i;
  }
  write_file(path, "hello");
  EXPECT_NE(error_of(read_all).find("no bundle"), std::string::npos);
}

TEST(Bundle, IsWhatTheEnvironmentLists) {
  const Folder folder;
  write_bundle(folder / "a", made_of, entries());
  write_bundle(folder / "b", made_of, {});
  const auto list = [](const std::string& value) {
    setenv("FA_BUNDLE", value.c_str(), 1);
    return Bundle::of_environment();
  };
  EXPECT_EQ(list("").size(), 0U);
  const auto both = list(fmt::format(":{}::{}:", folder / "a", folder / "b"));
  ASSERT_EQ(both.size(), 2U);
  EXPECT_EQ(both[0].path(), folder / "a");
  EXPECT_EQ(both[1].path(), folder / "b");
  EXPECT_NE(error_of([&] { list(folder / "c"); }).find(folder / "c"), std::string::npos);
  EXPECT_NE(error_of([&] { list(folder.path()); }).find("not a regular file"), std::string::npos);
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_NE(error_of([&] { list(folder / "pipe"); }).find("not a regular file"), std::string::npos);
}

TEST(Bundle, IsNotWrittenWhereItCannotBe) {
  const Folder folder;
  const auto write = [](const std::string& path) {
    return error_of([&] { write_bundle(path, made_of, entries()); });
  };
  EXPECT_NE(write("/dev/null").find("/dev/null: it is not a regular file"), std::string::npos);
  EXPECT_NE(write(folder.path()).find("it is a folder"), std::string::npos);
  EXPECT_NE(write(folder / "none/bundle").find("No such file"), std::string::npos);
  EXPECT_NE(write("/proc/bundle"), "");
  EXPECT_TRUE(folder.files().empty());
}

// No NVRTC can be had here: what the bundle holds needs none, and the rest is told apart.
TEST(Bundle, NeedsNoCompiler) {
  const Folder folder;
  setenv("FA_NVRTC", "/none", 1);
  const auto store = [&](const Digest& sources) {
    std::vector<Bundle> bundles;
    if (std::filesystem::exists(folder / "b")) bundles.emplace_back(folder / "b");
    return KernelStore(test_sources, sources, DiskCache(folder / "cache"), std::move(bundles));
  };
  const Digest key = store(made_of).key(test_spec(1), "sm_80");
  write_bundle(folder / "b", made_of, {{key, {'c', 'o', 'd', 'e'}}});
  EXPECT_EQ(*store(made_of).cubin(test_spec(1), "sm_80"), (std::vector<char>{'c', 'o', 'd', 'e'}));
  const auto error = [&](const Digest& sources) {
    return error_of([&] { store(sources).cubin(test_spec(2), "sm_80"); });
  };
  EXPECT_NE(error(made_of).find("(for store on sm_80); FA_BUNDLE: " + (folder / "b") +
                                " does not hold it"),
            std::string::npos)
      << error(made_of);
  EXPECT_NE(error(made_of).find("FA_NVRTC: \"/none\" does not exist"), std::string::npos);
  EXPECT_NE(error({1, 1}).find("was made by another version of this library"), std::string::npos);
}

}  // namespace
