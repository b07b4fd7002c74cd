// Shared memory of attention kernels: what every card gives is enough for one form of each, and results do not depend
// on which card it is.
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "backends/cuda/attention_products.h"
#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/runtime.h"
#include "checks/draws.h"
#include "nn/scoring.h"

using namespace norma;
using namespace norma::cuda;

namespace {

/// The emulator as a card whose blocks may ask for `bytes`, while it lives.
struct SmallCard {
  explicit SmallCard(std::size_t bytes) { emulator::card().block_shared = bytes; }
  ~SmallCard() { emulator::card() = {}; }
};

struct Case {
  std::string scoring;
  DType dtype;
  AttentionForm form;
  Index rows, keys, width, value_width;
  bool causal = false;
  Index batch = 1, heads = 1;
  bool masked = false;
  double dropout = 0;
};

/// The output, the gradients of q, k and v, and of several heads the statistics.
std::vector<std::vector<double>> results(const Case& c) {
  const Place place{c.dtype, {Device::Kind::cuda, 0}};
  const auto draw = [&](Index rows, Index width, std::uint64_t stream) {
    return checks::drawn({c.batch, c.heads, rows, width}, {3, stream}, place).track();
  };
  const Tensor q = draw(c.rows, c.width, 1), k = draw(c.keys, c.width, 2), v = draw(c.keys, c.value_width, 3);
  AttentionOptions o;
  o.scoring = nn::parse_scoring(c.scoring), o.form = c.form, o.causal = c.causal, o.dropout = c.dropout, o.stream = {9, 2};
  if (c.heads > 1) o.stats = full({c.batch, c.heads, attention_stats}, 123, {DType::f64, place.device});
  if (c.masked) o.key_mask = checks::drawn_keys(c.batch, c.keys, place.device);
  const Tensor out = attention(q, k, v, o);
  std::vector<std::vector<double>> all{out.values()};
  for (const Tensor& g : grad(out, Tensors{q, k, v}, draw(c.rows, c.value_width, 4).detach()))
    all.push_back(g.values());
  if (o.stats) {
    all.push_back(o.stats.values());
    for (double& x : all.back()) x = std::isnan(x) ? -1 : x;  // entropies of what is not normalised
  }
  return all;
}

}  // namespace

TEST_CASE("what a block asks for is there on every card", "[cuda_emulator]") {
  CHECK(forward_mma_bytes(4, mma_tile) == 45 << 10);
  for (int rows = 1; rows <= 2000; ++rows) {
    const int warps = forward_mma_warps(rows), groups = (rows + 15) / 16, blocks = (groups + warps - 1) / warps;
    INFO(rows << " rows");
    CHECK(blocks <= (groups + 3) / 4);
    CHECK((blocks < (groups + 3) / 4) == (warps > 4));
    if (groups > 1) CHECK((warps > 4 || (groups + 3) % 4 > 0));  // no block of four is started for one group
  }
  CHECK(forward_mma_warps(65) == 5);
  CHECK(forward_mma_warps(81) == 4);
  CHECK(forward_mma_warps(197) == 5);
  CHECK(forward_mma_warps(1024) == 4);
  for (const int chunks : {2, 4}) CHECK(forward_mma_bytes(chunks, 2 * mma_tile) <= least_block_shared);  // a warp owns 32 rows
  for (const int chunks : {2, 4, 8}) {
    CHECK(forward_mma_bytes(chunks, 80) <= least_block_shared);
    CHECK(backward_mma_bytes(chunks, mma_state_words(false)) <= least_block_shared);
    CHECK(mma_passing(chunks) % mma_step == 0);
  }
  for (int d = 1; d <= attention_max_width; ++d)
    for (int e = 1; e <= attention_max_width; ++e) {
      INFO("widths " << d << " and " << e);
      REQUIRE(forward_scalar_bytes(d, e) <= least_block_shared);
      REQUIRE(backward_scalar_bytes(d, e) <= least_block_shared);
      for (const bool causal : {false, true}) REQUIRE(linear_product_bytes(d, e, causal) <= least_block_shared);
    }
  CHECK(linear_state_bytes(attention_max_width) <= least_block_shared);
}

TEST_CASE("what all rows of a tile see is what each of them sees", "[cuda_emulator]") {
  const std::uint8_t mask[20] = {};
  for (const bool causal : {false, true})
    for (const std::int32_t rows : {1, 7, 12})
      for (const std::int32_t keys : {1, 5, 12, 20}) {
        AttentionProblem p;
        p.batches = p.heads = 1, p.rows = rows, p.keys = keys, p.causal = causal;
        const Head head(p, 0);
        for (std::int32_t first = 0; first < rows + 2; ++first)
          for (std::int32_t last = first; last < rows + 2; ++last) {
            std::int32_t seen = 0;
            const auto all_see = [&](std::int32_t column) {
              for (std::int32_t i = first; i <= last; ++i)
                if (!head.visible(i, column)) return false;
              return true;
            };
            while (all_see(seen)) ++seen;
            CHECK(head.seen_by_all(first, last) == seen);
          }
        p.key_mask = mask, p.mask_key = 1;
        CHECK(Head(p, 0).seen_by_all(0, 0) == 0);
      }
}

TEST_CASE("visible keys are counted up to each key", "[cuda_emulator]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  for (const std::int32_t keys : {1, 31, 256, 257, 700}) {
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(2 * 3 * keys));
    for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = uniform_from(RandomStream{3, 5}.word(i)) < 0.4f;
    AttentionProblem p;
    p.batches = 3, p.keys = keys, p.key_mask = mask.data(), p.mask_batch = 2 * keys, p.mask_key = 2;
    std::vector<std::int32_t> got(static_cast<std::size_t>(3 * (keys + 1)), -1), wanted;
    count_visible_keys(runtime->stream(), p, got.data());
    runtime->synchronize();
    for (std::int32_t b = 0; b < 3; ++b) {
      wanted.push_back(0);
      for (std::int32_t j = 0; j < keys; ++j)
        wanted.push_back(wanted.back() + mask[static_cast<std::size_t>(2 * (b * keys + j))]);
    }
    CHECK(got == wanted);
  }
}

TEST_CASE("dropout asks for the words of its weights, one by one and in runs", "[cuda_emulator]") {
  const std::uint64_t replayed = 11;
  for (const std::uint64_t* number : {static_cast<const std::uint64_t*>(nullptr), &replayed})
    for (const std::int32_t keys : {9, 10, 12}) {
      AttentionProblem p;
      p.batches = 2, p.heads = 3, p.rows = 7, p.keys = keys, p.drop_below = std::uint64_t{1} << 31, p.keep_scale = 2, p.stream = {5, 3, number};
      const Head head(p, 4);
      const auto kept = [&](std::int32_t i, std::int32_t j) {
        const auto index = static_cast<std::uint64_t>((4 * p.rows + i) * keys + j);
        return RandomStream{5, number ? replayed : 3}.word(index) >= p.drop_below;
      };
      for (std::int32_t i = 0; i < p.rows; ++i)
        for (std::int32_t j = 0; j < keys; ++j) {
          CHECK(head.keep(i, j) == (kept(i, j) ? 2.0f : 0.0f));
          for (const std::uint32_t count : {1u, 4u, 16u}) {
            std::uint32_t wanted = 0;
            for (std::uint32_t c = 0; c < count; ++c) wanted |= (kept(i, j + static_cast<std::int32_t>(c)) ? 1u : 0u) << c;
            CHECK(head.kept_run(p.stream.now(), i, j, count) == wanted);
          }
        }
    }
}

namespace {

/// What each lane of a warp knows of its pairs: seen from the rows at `own` and from the keys there, then kept.
template <int fragments>
NORMA_KERNEL void know_pairs(AttentionProblem p, std::int32_t own, std::int32_t start, std::uint32_t* to) {
  const Head head(p, 1);
  const std::int32_t mine = own + static_cast<std::int32_t>(thread_id()) / 4;
  to += 4 * thread_id();
  to[0] = pairs_of_rows<fragments>(head, mine, start);
  to[1] = pairs_of_keys(head, mine, start);
  to[2] = kept_of_rows<fragments>(head, mine, start);
  to[3] = kept_of_keys<fragments>(head, mine, start);
}

template <int fragments>
void check_pairs(Runtime& runtime, const AttentionProblem& p, std::int32_t own, std::int32_t start) {
  std::vector<std::uint32_t> known(4 * warp_size);
  launch(runtime.stream(), {1}, warp_size, 0, know_pairs<fragments>, p, own, start, known.data());
  runtime.synchronize();
  const Head head(p, 1);
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane)
    for (int c = 0; c < 4 * fragments; ++c) {
      const std::int32_t at = own + lane / 4 + c % 4 / 2 * 8, across = start + c / 4 * 8 + 2 * (lane % 4) + c % 2;
      const std::uint32_t* all = known.data() + 4 * lane;
      wrong += has_pair(all[0], c) != head.visible(at, across);
      wrong += has_pair(all[1], c) != (at < p.keys && head.visible(across, at));
      wrong += has_pair(all[2], c) != (head.keep(at, across) != 0);
      wrong += has_pair(all[3], c) != (head.keep(across, at) != 0);
    }
  INFO(fragments << " fragments, " << own << " by " << start << ", " << p.rows << " x " << p.keys);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("lanes know of their pairs what each pair says of itself", "[cuda_emulator]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  std::vector<std::uint8_t> mask(300);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = uniform_from(RandomStream{3, 5}.word(i)) < 0.6f;
  for (const auto& [rows, keys] : std::vector<std::pair<int, int>>{{100, 100}, {70, 93}, {93, 70}, {50, 130}})
    for (const bool causal : {false, true})
      for (const bool masked : {false, true}) {
        AttentionProblem p;
        p.batches = 1, p.heads = 2, p.rows = rows, p.keys = keys, p.causal = causal, p.keep_scale = 2;
        p.drop_below = std::uint64_t{1} << 31, p.stream = {5, 3};
        if (masked) p.key_mask = mask.data(), p.mask_key = 2;
        for (const int own : {0, 48, 64, 80})
          for (const int start : {0, 32, 64, 96}) {
            check_pairs<2>(*runtime, p, own, start);
            check_pairs<4>(*runtime, p, own, start);
            check_pairs<8>(*runtime, p, own, start);
          }
      }
}

TEST_CASE("the linear form cuts a head so that a row meets every key that it sees once", "[cuda_emulator]") {
  constexpr int tile = linear_product_tile;
  const std::vector<std::pair<int, int>> sizes = {{1, 1},   {64, 64},  {65, 65},  {300, 300}, {1, 300},
                                                  {300, 1}, {70, 333}, {333, 70}, {600, 513}};
  for (const int width : {64, 65})
    for (const bool causal : {false, true})
      for (const auto& [rows, keys] : sizes) {
        INFO("width " << width << ", " << rows << " rows, " << keys << " keys, causal " << causal);
        AttentionProblem p;
        p.batches = p.heads = 1, p.rows = rows, p.keys = keys, p.d = width, p.e = 64, p.causal = causal;
        const Head head(p, 0);
        // From the side of the rows, which see what is before, and from that of the keys.
        for (const bool of_rows : {true, false}) {
          const int count = of_rows ? rows : keys, others = of_rows ? keys : rows, chunk = linear_chunk(p.d, p.e);
          std::vector<int> owners(static_cast<std::size_t>(count)), met(static_cast<std::size_t>(count * others));
          const LinearCut own = linear_cut(p, of_rows, tile), other = linear_cut(p, !of_rows, tile),
                          pieces = linear_pieces(p, !of_rows);
          const auto meet = [&](int r, int begin, int end) {
            for (int o = begin; o < end; ++o) ++met[static_cast<std::size_t>(r * others + o)];
          };
          for (int t = 0; t < own.pieces(); ++t) {
            REQUIRE(own.end(t) - own.begin(t) <= tile);
            for (int r = own.begin(t); r < own.end(t); ++r) {
              ++owners[static_cast<std::size_t>(r)];
              for (int piece = 0; piece < pieces.pieces(); ++piece)
                if (!causal || (of_rows ? piece < t * tile / chunk : piece > t * tile / chunk))
                  meet(r, pieces.begin(piece), pieces.end(piece));
              if (!causal) continue;
              const LinearTiles near = linear_tiles(t, chunk, !of_rows);
              for (int n = near.begin; n < near.end; ++n)
                for (int o = other.begin(n); o < other.end(n); ++o) {
                  const int from = o + other.before, to = r + own.before;
                  if (of_rows ? from <= to : from >= to) meet(r, o, o + 1);
                }
            }
          }
          CHECK(owners == std::vector<int>(static_cast<std::size_t>(count), 1));
          bool right = true;
          for (int r = 0; r < count; ++r)
            for (int o = 0; o < others; ++o)
              right = right && met[static_cast<std::size_t>(r * others + o)] ==
                                   (of_rows ? head.visible(r, o) : head.visible(o, r));
          CHECK(right);
          CHECK(pieces.pieces() == (causal ? linear_states(p) : (others + linear_piece - 1) / linear_piece));
        }
      }
}

TEST_CASE("the states of a causal head take little more than v in f32", "[cuda_emulator]") {
  AttentionProblem p;
  p.causal = true, p.rows = p.keys = 1 << 14;
  for (p.d = 1; p.d <= attention_max_width; ++p.d)
    for (p.e = 1; p.e <= attention_max_width; ++p.e)
      REQUIRE(std::int64_t{linear_states(p)} * (p.d + 1) * p.e <= std::int64_t{p.keys} * p.e * 65 / 64);
}

TEST_CASE("attention has the same bits on cards that give a block 227 and 99 KiB", "[cuda_emulator]") {
  const std::vector<Case> cases = {
      {"softmax", DType::bf16, AttentionForm::quadratic, 70, 100, 128, 128},
      {"x^3/sqrt(N)", DType::bf16, AttentionForm::quadratic, 197, 197, 64, 64},  // resident on one of them
      {"x^2/sum(x^2)", DType::bf16, AttentionForm::quadratic, 90, 120, 72, 128},
      {"softmax", DType::f32, AttentionForm::quadratic, 40, 70, 128, 128},
      {"x^3/sqrt(N)", DType::bf16, AttentionForm::quadratic, 40, 70, 127, 125},
      {"x/N", DType::f32, AttentionForm::linear, 40, 70, 128, 128},
      {"x/N", DType::f32, AttentionForm::linear, 140, 170, 128, 128, true}};
  for (const Case& c : cases) {
    INFO(c.scoring << ", " << name(c.dtype) << ", " << c.rows << " x " << c.keys << " of " << c.width << " and "
                   << c.value_width);
    const auto wanted = results(c);
    const SmallCard small(least_block_shared);
    CHECK(results(c) == wanted);
  }
  const SmallCard none(std::size_t{16} << 10);
  CHECK_THROWS_WITH(results(cases[0]), Catch::Contains("shared memory; a block has 16 KiB"));
}

TEST_CASE("attention has the same bits where a launch takes all heads of the batch and those of a few examples", "[cuda_emulator]") {
  const std::vector<Case> cases = {
      {"softmax", DType::bf16, AttentionForm::quadratic, 20, 30, 16, 24, true, 5, 3, true, 0.2},  // resident
      {"x^2/sum(x^2)", DType::bf16, AttentionForm::quadratic, 20, 140, 128, 128, false, 5, 3, true, 0.2},
      {"x^3/sqrt(N)", DType::bf16, AttentionForm::quadratic, 20, 30, 15, 13, false, 5, 3, true, 0.2},
      {"softmax", DType::f32, AttentionForm::quadratic, 20, 30, 16, 24, false, 5, 3, true, 0.2},
      {"x/N", DType::f32, AttentionForm::linear, 20, 30, 16, 24, false, 5, 3, true},
      {"x/N", DType::f32, AttentionForm::linear, 140, 140, 16, 24, true, 5, 3},
      // causal: of 7 blocks along the second axis there are enough for heads to lie along the first, or too few
      {"softmax", DType::bf16, AttentionForm::quadratic, 70, 150, 16, 24, true, 5, 3, false, 0.2},
      {"softmax", DType::bf16, AttentionForm::quadratic, 290, 290, 16, 24, true, 2, 2, true},
      {"x^2/sum(x^2)", DType::bf16, AttentionForm::quadratic, 290, 240, 32, 32, true, 2, 2},
      {"x^3/sqrt(N)", DType::f32, AttentionForm::quadratic, 240, 290, 15, 13, true, 2, 2}};
  struct Whole {  // afterwards
    ~Whole() { emulator::card() = {}, set_attention_products("mma"); }
  } whole;
  for (const char* products : {"mma", "wgmma"})
    for (const Case& c : cases) {
      set_attention_products(products);
      INFO(products << ", " << c.scoring << ", " << name(c.dtype));
      emulator::card() = {};
      const auto wanted = results(c);
      emulator::card().grid_y = 7;  // two examples at a time
      CHECK((results(c) == wanted));
    }
}

TEST_CASE("under a causal mask blocks begin from the heaviest to the lightest, and all heads at once", "[cuda_emulator]") {
  for (const auto& [rows, keys] : {std::pair{300, 300}, {300, 140}, {140, 300}, {1, 70}})
    for (const bool of_rows : {true, false})
      for (const bool heads_first : {true, false}) {
        CAPTURE(rows, keys, of_rows, heads_first);
        AttentionProblem p;
        p.batches = 2, p.heads = 3, p.rows = rows, p.keys = keys, p.causal = true, p.heads_first = heads_first;
        const int count = of_rows ? rows : keys, size = 64, blocks = (count + size - 1) / size;
        std::vector<BlockPlace> places;
        const Extent grid = attention_grid(p, count, size);
        emulator::run_grid({grid.x, grid.y, grid.z}, warp_size, 0, [&] {
          if (thread_id() == 0) places.push_back(of_rows ? place_of_rows(p) : place_of_keys(p));
        });
        const Head head(p, 0);
        const auto pairs = [&](const BlockPlace& place) {  // that the block computes
          int sum = 0;
          for (int i = static_cast<int>(place.block) * size; i < std::min(count, static_cast<int>(place.block + 1) * size); ++i)
            for (int o = 0; o < (of_rows ? keys : rows); ++o) sum += of_rows ? head.visible(i, o) : head.visible(o, i);
          return sum;
        };
        std::vector<int> met(static_cast<std::size_t>(6 * blocks));
        bool falling = true;
        for (std::size_t i = 0; i < places.size(); ++i) {
          CHECK(places[i].blocks == static_cast<unsigned>(blocks));
          ++met[places[i].head * places[i].blocks + places[i].block];
          const bool whole = count % size == 0 || (places[i].block + 1 < places[i].blocks && (i == 0 || places[i - 1].block + 1 < places[i].blocks));
          if (i > 0 && whole) falling = falling && pairs(places[i]) <= pairs(places[i - 1]);
        }
        CHECK(met == std::vector<int>(met.size(), 1));
        if (heads_first) CHECK(falling);
      }
}

TEST_CASE("a causal launch takes more heads than a grid's second axis has places", "[cuda_emulator]") {
  struct Whole {  // afterwards
    ~Whole() { emulator::card() = {}; }
  } whole;
  emulator::card().grid_y = 7;
  Backend& cuda = backend({Device::Kind::cuda, 0});
  const auto launches = [&](Index rows, bool causal) {
    const Tensor x = zeros({4, 3, rows, 16}, {DType::f32, {Device::Kind::cuda, 0}});
    AttentionOptions o;
    o.causal = causal;
    return cuda.capture([&] { return attention(x, x, x, o); })->launches().size();
  };
  CHECK(launches(20, true) == 1);
  CHECK(launches(20, false) == 2);   // two examples at a time
  CHECK(launches(290, true) == 2);  // as many blocks have no place there
}
