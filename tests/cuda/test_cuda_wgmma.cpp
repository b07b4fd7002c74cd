// Products of warpgroups: index arithmetic against the PTX ISA, the emulator's rules, and attention on them beside
// attention on mma.sync.
#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <vector>

#include "backends/cuda/attention_products.h"
#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/attention_wgmma.h"
#include "backends/cuda/runtime.h"
#include "backends/cuda/warpgroup.h"
#include "core/backend.h"
#include "tests/cuda/bf16_attention.h"

using namespace norma;
using namespace norma::cuda;

namespace {

/// Two nested coordinates ((a0, a1, a2), (b0, b1)) with their strides in elements, as the PTX ISA writes its examples.
std::uint32_t example(std::uint32_t row, std::uint32_t column, const std::uint32_t (&rows)[3],
                      const std::uint32_t (&row_strides)[3], const std::uint32_t (&column_strides)[2]) {
  return row % rows[0] * row_strides[0] + row / rows[0] % rows[1] * row_strides[1] +
         row / rows[0] / rows[1] * row_strides[2] + column % 8 * column_strides[0] + column / 8 * column_strides[1];
}

}  // namespace

TEST_CASE("matrix descriptors have the fields of the PTX ISA", "[cuda_emulator]") {
  const MatrixDescriptor m{0x2c40, 0x80, 0x400, Swizzle::bytes_128};
  CHECK(m.bits() == (0x2c4ull | 0x8ull << 16 | 0x40ull << 32 | 1ull << 62));
  CHECK(MatrixDescriptor{0, 0, 0, Swizzle::bytes_64}.bits() == 2ull << 62);
  CHECK(MatrixDescriptor{0, 0, 0, Swizzle::bytes_32}.bits() == 3ull << 62);
  const MatrixDescriptor back = MatrixDescriptor::of(m.bits());
  CHECK((back.start == m.start && back.leading == m.leading && back.stride == m.stride && back.swizzle == m.swizzle));
  CHECK(MatrixDescriptor::of(advanced(m.bits(), 0x1020)).start == 0x3c60);
}

TEST_CASE("descriptors find elements where the PTX ISA's examples have them", "[cuda_emulator]") {
  // "MN-Major, bf16": no swizzling, 32B, 64B; their exact layouts, rows and strides in elements. The leading and the
  // stride of each.
  const std::uint32_t plain[3] = {8, 1, 2}, in_32[3] = {8, 2, 2}, in_64[3] = {8, 4, 2};
  const MatrixDescriptor none{0, 128 * 2, 64 * 2, Swizzle::none}, half{0, 128 * 2, 256 * 2, Swizzle::bytes_32},
      more{0, 256 * 2, 512 * 2, Swizzle::bytes_64};
  for (std::uint32_t k = 0; k < 16; ++k) {
    for (std::uint32_t row = 0; row < 16; ++row)
      CHECK(none.address(Major::mn, row, k) == 2 * example(row, k, plain, {1, 8, 64}, {8, 128}));
    for (std::uint32_t row = 0; row < 32; ++row)
      CHECK(half.address(Major::mn, row, k) ==
            swizzled(2 * example(row, k, in_32, {1, 8, 128}, {16, 256}), Swizzle::bytes_32));
    for (std::uint32_t row = 0; row < 64; ++row)
      CHECK(more.address(Major::mn, row, k) ==
            swizzled(2 * example(row, k, in_64, {1, 8, 256}, {32, 512}), Swizzle::bytes_64));
  }
  // "K-major": ((8, m), (T, 2k)) : ((8T, SBO), (1, T)) with T = 8 under 128-byte swizzling, ((1T, SBO), (1, LBO))
  // without.
  const MatrixDescriptor wide{0, 16, 1024, Swizzle::bytes_128}, bare{0, 4096, 256, Swizzle::none};
  for (std::uint32_t row = 0; row < 64; ++row)
    for (std::uint32_t k = 0; k < 16; ++k) {
      CHECK(wide.address(Major::k, row, k) == swizzled(row % 8 * 128 + row / 8 * 1024 + 2 * k, Swizzle::bytes_128));
      CHECK(bare.address(Major::k, row, k) == row % 8 * 16 + row / 8 * 256 + k / 8 * 4096 + k % 8 * 2);
    }
  // Swizzle<bits, 4, 3>: as many bits from 4 on, xor those from 7 on.
  for (std::uint32_t address = 0; address < 4096; address += 16) {
    CHECK(swizzled(address, Swizzle::none) == address);
    CHECK(swizzled(address, Swizzle::bytes_128) == (address ^ (address >> 7 & 7) << 4));
    CHECK(swizzled(address, Swizzle::bytes_64) == (address ^ (address >> 7 & 3) << 4));
    CHECK(swizzled(address, Swizzle::bytes_32) == (address ^ (address >> 7 & 1) << 4));
  }
}

TEST_CASE("fragments of a warpgroup cover a product once", "[cuda_emulator]") {
  for (const std::uint32_t n : {16u, 32u, 64u}) {
    std::set<std::pair<std::uint32_t, std::uint32_t>> all;
    for (std::uint32_t thread = 0; thread < 128; ++thread)
      for (std::uint32_t i = 0; i < n / 2; ++i) {
        const FragmentElement at = fragment_element(thread, i);
        CHECK((at.row < 64 && at.column < n));
        all.insert({at.row, at.column});
      }
    CHECK(all.size() == 64 * n);
  }
  const FragmentElement first = fragment_element(37, 0), last = fragment_element(37, 7);  // warp 1, lane 5
  CHECK((first.row == 17 && first.column == 2));
  CHECK((last.row == 25 && last.column == 11));
}

TEST_CASE("attention's tiles lie where its descriptors look, each piece in a place of its own", "[cuda_emulator]") {
  for (const int chunks : {2, 4, 8}) {
    const WgmmaPanels panels{chunks};
    for (std::uint32_t address = 0; address < 4096; address += 16) {
      CHECK((address + panels.padding(address)) % static_cast<std::uint32_t>(panels.pattern_bytes()) == 0);
      CHECK(panels.padding(address) <= static_cast<std::uint32_t>(panels.most_padding()));
    }
    for (const int count : {32, 64, 128}) {
      INFO(chunks << " chunks, " << count << " rows");
      CHECK(panels.tensor_bytes(count) % panels.pattern_bytes() == 0);
      CHECK(panels.tensor_bytes(count) == count * std::max(chunks * 16, 32) * 2);
      std::set<int> places;
      for (int row = 0; row < count; ++row)
        for (int piece = 0; piece < chunks * 2; ++piece) places.insert(panels.piece_offset(row, piece, count));
      CHECK(places.size() == static_cast<std::size_t>(count * chunks * 2));
      CHECK(*places.rbegin() < panels.tensor_bytes(count));
      // An element as the copies put it there, and where a product looks for it.
      const auto lies = [&](int row, int column) {
        return 4096 + static_cast<std::uint32_t>(panels.piece_offset(row, column / 8, count) + column % 8 * 2);
      };
      const auto looked_for = [&](std::uint32_t offset, Major major, int i, int k) {
        const auto m = MatrixDescriptor::of(advanced(panels.descriptor(4096), offset));
        return m.address(major, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(k));
      };
      for (int row = 0; row < count; row += 32)
        for (int c = 0; c < chunks; ++c)
          for (int i = 0; i < 32; ++i)
            for (int k = 0; k < 16; ++k)
              REQUIRE(looked_for(panels.k_step(row, c, count), Major::k, i, k) == lies(row + i, 16 * c + k));
      for (int panel = 0; panel < panels.panels(); ++panel)
        for (int j = 0; j < count / 16; ++j)
          for (int n = 0; n < panels.panel_columns(); ++n)
            for (int k = 0; k < 16; ++k)
              REQUIRE(looked_for(panels.n_step(panel, j, count), Major::mn, n, k) ==
                      lies(16 * j + k, panels.panel_columns() * panel + n));
    }
    for (const WgmmaTiles& t :
         {WgmmaTiles::forward(chunks), WgmmaTiles::backward_rows(chunks), WgmmaTiles::backward_keys(chunks)}) {
      CHECK(t.own_offset(1) == t.tensor_bytes(128));
      CHECK(t.passing_offset(0) == t.owned * t.tensor_bytes(128));
      CHECK(t.passing_offset(1) == t.passing_offset(0) + 2 * t.tensor_bytes(t.passing));
      CHECK(t.state_offset() == t.passing_offset(1) + 2 * t.tensor_bytes(t.passing));
      CHECK(t.bytes(mma_state_words(false)) <= emulator::Card{}.block_shared);
    }
  }
}

namespace {

/// What a kernel of the tests below leaves out or does wrong.
enum class Fault {
  none,
  no_proxy_fence,
  early_proxy_fence,
  one_proxy_fence,
  no_barrier,
  no_fence,
  no_wait,
  early_read,
  early_write,
  early_copy,
  changed_registers,
  different_descriptors,
  inside_pattern,
  past_row,
  base_offset,
  half
};

/// A [64, 16] and B^T [64, 16] of bf16 in rows of 128 bytes, swizzled; D = A B, then D += A' B with A' the same A from
/// registers and B with neighbours along n, [16, 64], which is what B^T holds as rows 0 to 15 by 64 columns.
void product_kernel(const bf16* a, const bf16* b, const bf16* wide, float* out, Fault fault) {
  constexpr WgmmaPanels tiles{4};  // for its pattern
  char* space = shared_memory() + tiles.padding(shared_address(shared_memory()));
  const auto copy_rows = [&](const bf16* x, char* to, int rows, int pieces) {
    for (int i = static_cast<int>(thread_id()); i < rows * pieces; i += 128)
      copy_async(to + swizzled(static_cast<std::uint32_t>(i / pieces * 128 + i % pieces * 16), Swizzle::bytes_128),
                 x + i * 8, true);
  };
  copy_rows(a, space, 64, 2);
  copy_rows(b, space + 8192, 64, 2);
  copy_rows(wide, space + 16384, 16, 8);
  commit_copies();
  if (fault == Fault::early_proxy_fence) fence_async_proxy();
  wait_copies<0>();
  if (fault != Fault::no_proxy_fence && fault != Fault::early_proxy_fence &&
      (fault != Fault::one_proxy_fence || thread_id() == 0))
    fence_async_proxy();
  if (fault != Fault::no_barrier) block_barrier();
  if (fault == Fault::half && thread_id() >= 64) return;

  const std::uint64_t start = tiles.descriptor(shared_address(space));
  std::uint64_t left = start;
  if (fault == Fault::different_descriptors && thread_id() == 77) left = advanced(start, 32);
  if (fault == Fault::inside_pattern) left = advanced(start, 128);
  if (fault == Fault::past_row) left = advanced(start, 112);
  if (fault == Fault::base_offset) left |= std::uint64_t{1} << 49;
  float d[8][4] = {};
  if (fault != Fault::no_fence) fence_products(d);
  multiply_shared(d, left, advanced(start, 8192), false);
  commit_products();
  if (fault == Fault::early_read) *out = d[0][0];
  if (fault == Fault::changed_registers) d[1][1] = 3;
  if (fault == Fault::early_copy && thread_id() == 5) copy_async(space + 8192, b, true), commit_copies();
  if (fault == Fault::early_write && thread_id() == 5) space[8192] ^= 1;
  if (fault == Fault::no_wait) return;
  wait_products<0>(d);
  if (fault == Fault::early_read) return;

  std::uint32_t registers[1][4];
  for (std::uint32_t x = 0; x < 4; ++x) {
    const FragmentElement at = fragment_element(thread_id(), 2 * x);
    registers[0][x] = a[at.row * 16 + at.column].bits | static_cast<std::uint32_t>(a[at.row * 16 + at.column + 1].bits)
                                                            << 16;
  }
  fence_products(d, registers);
  multiply_registers(d, registers[0], advanced(start, 16384));
  commit_products();
  wait_products<0>(d, registers);
  for (std::uint32_t i = 0; i < 32; ++i) {
    const FragmentElement at = fragment_element(thread_id(), i);
    out[at.row * 64 + at.column] = d[i / 4][i % 4];
  }
}

struct Numbers {
  alignas(16) bf16 a[64 * 16], b[64 * 16], wide[16 * 64];
  float out[64 * 64];
  Numbers() {
    for (std::size_t i = 0; i < 1024; ++i)
      a[i] = bf16(number(1, i)), b[i] = bf16(number(2, i)), wide[i] = bf16(number(3, i));
  }
  std::string run(Fault fault, unsigned threads = 128) {
    try {
      launch(runtime().stream(), {1}, threads, 20 * 1024, product_kernel, &a[0], &b[0], &wide[0], &out[0], fault);
      runtime().synchronize();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
};

}  // namespace

TEST_CASE("products of a warpgroup multiply what their descriptors name", "[cuda_emulator]") {
  Numbers x;
  REQUIRE(x.run(Fault::none) == "no error");
  for (std::size_t i = 0; i < 64; ++i)
    for (std::size_t j = 0; j < 64; ++j) {
      double wanted = 0;
      for (std::size_t k = 0; k < 16; ++k)
        wanted += static_cast<double>(float(x.a[i * 16 + k])) * (float(x.b[j * 16 + k]) + float(x.wide[k * 64 + j]));
      CHECK(x.out[i * 64 + j] == Approx(wanted).margin(1e-5));
    }
}

TEST_CASE("broken rules of a warpgroup's products are refused", "[cuda_emulator]") {
  Numbers x;
  const auto refused = [&](Fault fault, const std::string& with) { CHECK_THAT(x.run(fault), Catch::Contains(with)); };
  const std::string not_ordered = "which was written without fence_async_proxy by every thread and a barrier after it";
  refused(Fault::no_proxy_fence, not_ordered);
  refused(Fault::early_proxy_fence, not_ordered);
  refused(Fault::one_proxy_fence, not_ordered);
  refused(Fault::no_barrier, not_ordered);
  refused(Fault::no_fence, "multiplies without fence_products since it began or waited");
  refused(Fault::no_wait, "leaves with products it did not wait for");
  refused(Fault::early_write, "shared memory of a product is written before the whole warpgroup has waited for it");
  refused(Fault::early_copy,
          "thread 5 copies to shared memory of a product before the whole warpgroup has waited for it");
  refused(Fault::changed_registers, "writes registers of a product before it waits for it");
  refused(Fault::different_descriptors,
          "lanes 0 and 77 of a warpgroup bring different descriptors or options to a product");
  refused(Fault::inside_pattern, "is not in the first row of a pattern, which starts at a multiple of 1024");
  refused(Fault::past_row, "the operand leaves its row of the pattern");
  refused(Fault::base_offset, "has a base offset or bits without meaning");
  refused(Fault::half, "is stuck: 0 threads wait at a barrier, 64 at multiply_shared, 64 have left");
  CHECK(x.run(Fault::early_read) == "no error");
  CHECK(std::isnan(x.out[0]));  // not there yet
  CHECK_THAT(x.run(Fault::none, 96), Catch::Contains("a product in warpgroup 0 of a block of 96 threads"));
}

TEST_CASE("emulated attention has the same bits on wgmma and on mma.sync", "[cuda_emulator][slow]") {
  // Blocks of which one warpgroup has no rows, few, and all; widths of each bucket and between; rows that see nothing.
  // On mma.sync a warp owns 16 rows where statistics are measured, rows are less than 128 or widths more than 64,
  // else 32.
  const std::vector<Case> cases = {
      {1, 2, 65, 65, 64, 64, false, false, false, true},    {2, 1, 16, 130, 16, 24, false, true, true, false},
      {1, 1, 197, 197, 32, 32, false, false, true, true},   {1, 1, 128, 64, 64, 40, true, false, false, false},
      {1, 2, 197, 197, 64, 64, false, false, false, false}, {1, 1, 197, 65, 64, 40, false, true, true, false},
      {2, 1, 300, 140, 32, 24, true, true, false, false},   {1, 1, 145, 150, 24, 32, true, false, true, false},
      {1, 1, 190, 100, 8, 8, true, true, false, true},      {1, 1, 70, 300, 128, 72, false, true, true, true},
      {1, 2, 300, 170, 72, 128, true, false, false, false}, {1, 1, 129, 129, 128, 128, true, true, true, true},
      {2, 2, 1, 1, 8, 16, false, false, false, true}};
  for (const AttentionProblem& scoring : {softmax(), cubic(), normalised()})
    for (const Case& c : cases) {
      INFO("phi " << static_cast<int>(scoring.phi) << ", " << c.rows << " x " << c.keys << " of " << c.d << " and "
                  << c.e);
      const Results got = run(c, scoring, {attention_forward_wgmma, wgmma_block_rows},
                              {attention_backward_wgmma, wgmma_block_rows}),
                    wanted = run(c, scoring, streaming_forward, streaming_backward);
      for (std::size_t i = 0; i < 4; ++i) {
        INFO("result " << i);
        CHECK(got.bits[i] == wanted.bits[i]);
      }
      CHECK(got.lse == wanted.lse);
      check_statistics(got.stats, wanted.stats, 1e-12);
      check_statistics(got.gradient_stats, wanted.gradient_stats, 1e-6);
    }
}

TEST_CASE("wgmma is taken where it is asked for and there", "[cuda_emulator]") {
  const auto error_of = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(attention_products(runtime()) == AttentionProducts::mma);
  CHECK(error_of([] { set_attention_products("tma"); }) ==
        "NORMA_CUDA_ATTENTION: unknown products \"tma\"; there are mma, wgmma");
  set_attention_products("wgmma");
  CHECK(attention_products(runtime()) == AttentionProducts::wgmma);
  for (const int capability : {86, 100}) {
    emulator::card().compute_capability = capability;
    CHECK(error_of([] { attention_products(runtime()); }) ==
          fmt::format("NORMA_CUDA_ATTENTION: wgmma needs compute capability 9.0, and cuda:0 (emulated) has {}.{}",
                      capability / 10, capability % 10));
  }
  set_attention_products("mma");
  CHECK(attention_products(runtime()) == AttentionProducts::mma);
  emulator::card() = {};
}
