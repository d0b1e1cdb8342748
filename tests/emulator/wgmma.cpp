// wgmma: a warp group begins a product, and each of its warps waits for its own 16 rows. Operands
// in shared memory are read at once or when the product is waited for, by chance; sums come only
// then, and until then the registers hold poison.
#include <bit>
#include <cstring>

#include "emulator/block.hpp"
#include "kernels/common/descriptor.h"

namespace emulator {

namespace {

using fa::kernel::Swizzle;

constexpr int rows = 16, depth = 16;        // of a warp, of a product
constexpr uint32_t untouched = 0xffe5a5a5;  // a NaN that nobody computes

WarpProducts& products_of(const Thread& thread) {
  return thread.block->warps[thread.index.x / 32].products;
}

/// An operand in shared memory, as its descriptor tells it.
struct Operand {
  unsigned address, leading, stride;  ///< in bytes
  Swizzle swizzle;
  bool mn;

  Operand(uint64_t descriptor, bool is_mn)
      : address(static_cast<unsigned>(descriptor & 0x3fff) << 4),
        leading(static_cast<unsigned>(descriptor >> 16 & 0x3fff) << 4),
        stride(static_cast<unsigned>(descriptor >> 32 & 0x3fff) << 4),
        swizzle(static_cast<Swizzle>((4 - (descriptor >> 62)) % 4)),
        mn(is_mn) {
    constexpr uint64_t known = 3ull << 62 | 0x3fffull << 32 | 0x3fffull << 16 | 0x3fffull;
    if ((descriptor & ~known) != 0) stop("a descriptor of wgmma has bits that are not known");
  }

  /// The address of element k of A's row, or B's column, `i`.
  unsigned at(int i, int k) const {
    const auto row = static_cast<unsigned>(i), column = static_cast<unsigned>(k);
    const auto line = static_cast<unsigned>(fa::kernel::line_bytes(swizzle));
    unsigned offset = 0;
    if (!mn) {
      offset = row % 8 * line + row / 8 * stride;
      offset += swizzle == Swizzle::none ? column % 8 * 2 + column / 8 * leading : column * 2;
    } else if (swizzle == Swizzle::none) {
      offset = row % 8 * 2 + row / 8 * stride + column % 8 * 16 + column / 8 * leading;
    } else {
      const unsigned wide = line / 2;
      offset = row % wide * 2 + row / wide * leading + column % 8 * line + column / 8 * stride;
    }
    return fa::kernel::swizzled(address + offset, swizzle);
  }
};

float read(Block& block, unsigned address, float (*number)(unsigned short)) {
  if (address < shared_base ||
      address + 2 > shared_base + static_cast<unsigned>(block.shared_bytes)) {
    stop("a descriptor of wgmma leads out of a block's shared memory");
  }
  async_reads(block, address, 2);
  unsigned short bits;
  std::memcpy(&bits, block.shared + (address - shared_base), 2);
  return number(bits);
}

/// What is in shared memory now; `warp` is the number in its group.
void read_operands(WarpProduct& product, Block& block, int warp) {
  const WarpGroupProduct& form = product.form;
  if (product.a.empty()) {
    const Operand a(form.a, form.a_mn);
    for (int i = 0; i < rows; ++i) {
      for (int k = 0; k < depth; ++k) {
        product.a.push_back(read(block, a.at(rows * warp + i, k), form.number));
      }
    }
  }
  if (product.b.empty()) {
    const Operand b(form.b, form.b_mn);
    for (int k = 0; k < depth; ++k) {
      for (int j = 0; j < 8 * form.tiles; ++j) {
        product.b.push_back(read(block, b.at(j, k), form.number));
      }
    }
  }
}

/// The lanes' registers as the 16 x 16 that they hold.
std::vector<float> from_registers(const WarpGroupProduct* const* lanes) {
  std::vector<float> a(rows * depth);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < 2; ++e) {
        const int row = lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8 + e;
        a[row * depth + k] = lanes[lane]->number(
            static_cast<unsigned short>(lanes[lane]->a_registers[i] >> (16 * e)));
      }
    }
  }
  return a;
}

void poison_registers(Sums& sums) {
  for (int lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < sums.d[lane].size(); ++i) {
      std::memcpy(sums.registers[lane] + i, &untouched, sizeof untouched);
    }
  }
}
void expect_untouched(const Sums& sums) {
  for (int lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < sums.d[lane].size(); ++i) {
      if (std::bit_cast<uint32_t>(sums.registers[lane][i]) != untouched) {
        stop("registers of wgmma were written before it was waited for");
      }
    }
  }
}

std::shared_ptr<Sums> sums_of(WarpProducts& warp, const WarpGroupProduct* const* lanes) {
  auto& known = warp.sums[lanes[0]->d];
  const size_t count = 4 * lanes[0]->tiles;
  if (known != nullptr) {
    if (known->d[0].size() != count) stop("sums of wgmma change their shape under way");
    expect_untouched(*known);
    return known;
  }
  if (!warp.fenced) stop("wgmma takes registers without wgmma.fence");
  known = std::make_shared<Sums>();
  for (int lane = 0; lane < 32; ++lane) {
    known->registers[lane] = lanes[lane]->d;
    known->d[lane].assign(lanes[lane]->d, lanes[lane]->d + count);
  }
  poison_registers(*known);
  return known;
}

void multiply(const WarpProduct& product) {
  const int columns = 8 * product.form.tiles;
  std::vector<float> d(rows * columns);
  for (int i = 0; i < rows; ++i) {
    float* row = &d[i * columns];
    for (int k = 0; k < depth; ++k) {
      const float left = product.a[i * depth + k];
      const float* right = &product.b[k * columns];
      for (int j = 0; j < columns; ++j) row[j] += left * right[j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    std::vector<float>& sums = product.sums->d[lane];
    for (size_t i = 0; i < sums.size(); ++i) {
      const int tile = static_cast<int>(i) / 4, e = static_cast<int>(i) % 4;
      const int row = lane / 4 + e / 2 * 8, column = 8 * tile + lane % 4 * 2 + e % 2;
      const float more = d[row * columns + column];
      sums[i] = product.form.add ? sums[i] + more : more;
    }
  }
}

void finish(WarpProducts& warp, WarpProduct& product, Block& block, int number) {
  read_operands(product, block, number);
  multiply(product);
  Sums& sums = *product.sums;
  if (--sums.products > 0) return;
  expect_untouched(sums);
  for (int lane = 0; lane < 32; ++lane) {
    std::copy(sums.d[lane].begin(), sums.d[lane].end(), sums.registers[lane]);
  }
  warp.sums.erase(sums.registers[0]);
}

bool same(const WarpGroupProduct& x, const WarpGroupProduct& y) {
  return x.tiles == y.tiles && x.a == y.a && x.b == y.b && x.a_mn == y.a_mn && x.b_mn == y.b_mn &&
         x.add == y.add && x.number == y.number &&
         (x.a_registers == nullptr) == (y.a_registers == nullptr);
}

/// By the last of 128 lanes, for all.
void begin(void* const* operands) {
  const WarpGroupProduct* lanes[128];
  for (int i = 0; i < 128; ++i) {
    lanes[i] = static_cast<const WarpGroupProduct*>(operands[i]);
    if (!same(*lanes[i], *lanes[0])) stop("lanes of a warp group differ in what they multiply");
  }
  Block& block = *current->block;
  const size_t first = current->index.x / 128 * 4;
  for (int number = 0; number < 4; ++number) {
    WarpProducts& warp = block.warps[first + static_cast<size_t>(number)].products;
    const WarpGroupProduct* const* mine = lanes + 32 * number;
    WarpProduct product{*mine[0], sums_of(warp, mine), {}, {}};
    if (mine[0]->a_registers != nullptr) {
      if (!warp.fenced) stop("wgmma takes registers without wgmma.fence");
      product.a = from_registers(mine);
    }
    if (block.cluster->draw(2) == 0) read_operands(product, block, number);
    ++product.sums->products;
    warp.open.push_back(std::move(product));
  }
}

}  // namespace

namespace products {

void issue(const WarpGroupProduct& product) {
  WarpGroupProduct mine = product;
  meet_group(begin, &mine);
}

void fence() {
  meet_warp([](void* const*) { products_of(*current).fenced = true; }, nullptr);
}

void commit() {
  meet_warp(
      [](void* const*) {
        WarpProducts& warp = products_of(*current);
        warp.groups.push_back(std::move(warp.open));
        warp.open.clear();
      },
      nullptr);
}

void wait(int pending) {
  meet_warp(
      [](void* const* lanes) {
        WarpProducts& warp = products_of(*current);
        const auto left = static_cast<size_t>(*static_cast<const int*>(lanes[0]));
        for (; warp.groups.size() > left; warp.groups.pop_front()) {
          for (WarpProduct& product : warp.groups.front()) {
            finish(warp, product, *current->block, static_cast<int>(current->index.x / 32 % 4));
          }
        }
        warp.fenced = false;
      },
      &pending);
}

}  // namespace products

}  // namespace emulator
