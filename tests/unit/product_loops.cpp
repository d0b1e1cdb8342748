#include "product_loops.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <stdexcept>

namespace fa::test {

namespace {

struct Instruction {
  std::string name;  ///< without what follows the first point
  bool conditional = false;
  std::string label;  ///< to which it may go
};

struct Listing {
  std::vector<Instruction> instructions;
  std::map<std::string, int> labels;  ///< of the instruction that follows
};

Listing read(std::string_view text) {
  static const std::regex label(R"(^(\.L_\w+):)");
  static const std::regex instruction(
      R"(^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9_]*)([A-Z0-9_.]*)([^;]*);)");
  static const std::regex target(R"(`\((\.L_\w+)\))");
  static const std::regex operand_condition(R"(^\s*!?U?[PR]\w+\s*,)");
  Listing listing;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line(text.substr(begin, end - begin));
    begin = end + 1;
    std::smatch found;
    if (std::regex_search(line, found, label)) {
      listing.labels[found[1]] = static_cast<int>(listing.instructions.size());
    } else if (std::regex_search(line, found, instruction)) {
      Instruction one{.name = found[2], .conditional = found[1].matched, .label = {}};
      const std::string kind = found[3], operands = found[4];
      // BRA.DIV, BRA.U.ANY: if lanes differ, if any lane will
      one.conditional = one.conditional || kind.find(".DIV") != std::string::npos ||
                        kind.find(".ANY") != std::string::npos ||
                        std::regex_search(operands, operand_condition);
      if (std::regex_search(operands, found, target)) one.label = found[1];
      listing.instructions.push_back(std::move(one));
    }
  }
  return listing;
}

/// Instructions that follow each other without a branch, as a graph.
struct Blocks {
  std::vector<int> begins;  ///< of each block, and the end of the last one
  std::vector<std::vector<int>> next;

  int count() const { return static_cast<int>(next.size()); }
};

bool ends_thread(const Instruction& one) { return one.name == "EXIT" || one.name == "RET"; }

Blocks blocks_of(const Listing& listing) {
  const auto& all = listing.instructions;
  const int count = static_cast<int>(all.size());
  std::set<int> begins{0, count};
  for (const auto& [name, at] : listing.labels) begins.insert(at);
  for (int i = 0; i < count; ++i) {
    if (all[i].name == "BRX") throw std::runtime_error("a branch to a computed address");
    if (all[i].name == "BRA" || ends_thread(all[i])) begins.insert(i + 1);
  }
  Blocks blocks{{begins.begin(), begins.end()}, {}};
  blocks.next.resize(blocks.begins.size() - 1);
  const auto block_at = [&](int instruction) {
    return static_cast<int>(std::ranges::lower_bound(blocks.begins, instruction) -
                            blocks.begins.begin());
  };
  for (int n = 0; n < blocks.count(); ++n) {
    const int end = blocks.begins[n + 1];
    const Instruction& last = all[end - 1];
    if (last.name == "BRA") blocks.next[n].push_back(block_at(listing.labels.at(last.label)));
    const bool leaves = last.name == "BRA" || ends_thread(last);
    if ((!leaves || last.conditional) && end < count) blocks.next[n].push_back(n + 1);
  }
  return blocks;
}

/// Blocks from which no way leads back to an earlier one come last.
std::vector<int> reverse_postorder(const Blocks& blocks) {
  std::vector<int> order;
  std::vector<bool> seen(blocks.next.size());
  std::vector<std::pair<int, size_t>> path{{0, 0}};
  seen[0] = true;
  while (!path.empty()) {
    auto& [block, n] = path.back();
    if (n == blocks.next[block].size()) {
      order.push_back(block);
      path.pop_back();
      continue;
    }
    const int next = blocks.next[block][n++];
    if (seen[next]) continue;
    seen[next] = true;
    path.emplace_back(next, 0);
  }
  std::ranges::reverse(order);
  return order;
}

/// Of each block that can be reached, the nearest other one that every way to it leads through
/// (Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm").
class Dominators {
 public:
  Dominators(const std::vector<int>& order, const std::vector<std::vector<int>>& before)
      : place_(before.size(), -1), above_(before.size(), -1) {
    for (size_t i = 0; i < order.size(); ++i) place_[order[i]] = static_cast<int>(i);
    above_[0] = 0;
    for (bool changed = true; changed;) {
      changed = false;
      for (const int block : order) {
        if (block == 0) continue;
        int nearest = -1;
        for (const int other : before[block]) {
          if (above_[other] >= 0) nearest = nearest < 0 ? other : common(other, nearest);
        }
        changed = changed || above_[block] != nearest;
        above_[block] = nearest;
      }
    }
  }

  bool dominates(int block, int other) const {
    while (other != block && other != 0) other = above_[other];
    return other == block;
  }

 private:
  int common(int a, int b) const {
    while (a != b) {
      while (place_[a] > place_[b]) a = above_[a];
      while (place_[b] > place_[a]) b = above_[b];
    }
    return a;
  }

  std::vector<int> place_, above_;
};

/// Of each loop, by its first block: all of its blocks.
std::map<int, std::set<int>> loops_of(const Blocks& blocks) {
  const std::vector<int> order = reverse_postorder(blocks);
  std::vector<std::vector<int>> before(blocks.next.size());
  for (const int block : order) {
    for (const int next : blocks.next[block]) before[next].push_back(block);
  }
  const Dominators dominators(order, before);
  std::map<int, std::set<int>> loops;
  for (const int block : order) {
    for (const int first : blocks.next[block]) {
      if (!dominators.dominates(first, block)) continue;
      std::set<int>& loop = loops[first];
      loop.insert(first);
      for (std::vector<int> due{block}; !due.empty();) {
        const int one = due.back();
        due.pop_back();
        if (loop.insert(one).second) due.insert(due.end(), before[one].begin(), before[one].end());
      }
    }
  }
  return loops;
}

}  // namespace

std::vector<ProductLoop> product_loops(std::string_view text) {
  const Listing listing = read(text);
  if (listing.instructions.empty()) throw std::runtime_error("no instruction is listed");
  const Blocks blocks = blocks_of(listing);
  std::map<int, std::set<int>> loops = loops_of(blocks);
  std::map<int, ProductLoop> counts;
  for (const auto& [first, loop] : loops) {
    ProductLoop& counted = counts[first];
    for (const int block : loop) {
      for (int i = blocks.begins[block]; i < blocks.begins[block + 1]; ++i) {
        const std::string& name = listing.instructions[i].name;
        ++counted.instructions;
        counted.products += name == "HGMMA";
        counted.local_accesses += name == "LDL" || name == "STL";
      }
    }
  }
  std::erase_if(loops, [&](const auto& loop) { return counts[loop.first].products == 0; });
  std::vector<ProductLoop> innermost;
  for (const auto& [first, loop] : loops) {
    const bool has_smaller = std::ranges::any_of(loops, [&](const auto& other) {
      return other.first != first && loop.contains(other.first);
    });
    if (!has_smaller) innermost.push_back(counts[first]);
  }
  return innermost;
}

std::string disassembled(std::span<const char> cubin) {
  std::string path = (std::filesystem::temp_directory_path() / "fa-cubin.XXXXXX").string();
  const int file = mkstemp(path.data());
  if (file < 0) throw std::runtime_error(path + ": cannot be made");
  const bool written =
      write(file, cubin.data(), cubin.size()) == static_cast<ssize_t>(cubin.size());
  close(file);
  std::string text;
  int status = -1;
  if (FILE* pipe = written ? popen(fmt::format("nvdisasm -c '{}'", path).c_str(), "r") : nullptr) {
    char part[1 << 14];
    while (const size_t n = fread(part, 1, sizeof part, pipe)) text.append(part, n);
    status = pclose(pipe);
  }
  std::filesystem::remove(path);
  if (status != 0) throw std::runtime_error("nvdisasm failed; tools/with_nvrtc has one");
  return text;
}

}  // namespace fa::test
