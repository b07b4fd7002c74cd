// One head as attention kernels see it: where its tensors lie, which pairs are visible, which ones dropout leaves. For .cu files.
#pragma once

#include "backends/common/draws.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels/attention.h"

namespace norma::cuda {

/// What a block works on: one of the `blocks` blocks of rows or keys of a head.
struct BlockPlace {
  std::uint32_t head, block, blocks;
};
/// Of blocks of rows, of which under a causal mask the last one sees the most keys: it begins first.
NORMA_DEVICE BlockPlace place_of_rows(const AttentionProblem& p) {
  if (p.heads_first) return {block_id().x, grid_size().y - 1 - block_id().y, grid_size().y};
  return {block_id().y, block_id().x, grid_size().x};
}
/// Of blocks of keys, of which the first one is seen by the most rows.
NORMA_DEVICE BlockPlace place_of_keys(const AttentionProblem& p) {
  if (p.heads_first) return {block_id().x, block_id().y, grid_size().y};
  return {block_id().y, block_id().x, grid_size().x};
}
/// Of blocks of `size` out of `count` rows or keys.
inline Extent attention_grid(const AttentionProblem& p, std::int32_t count, std::int32_t size) {
  const unsigned blocks = static_cast<unsigned>((count + size - 1) / size), heads = static_cast<unsigned>(p.batches * p.heads);
  return p.heads_first ? Extent{heads, blocks} : Extent{blocks, heads};
}

/// One (batch, head) and what its rows see.
struct Head {
  const AttentionProblem& p;
  std::int32_t b, h;
  const std::uint8_t* mask;

  NORMA_DEVICE Head(const AttentionProblem& problem, std::uint32_t index) : p(problem) {
    b = static_cast<std::int32_t>(index) / p.heads;
    h = static_cast<std::int32_t>(index) % p.heads;
    mask = p.key_mask ? p.key_mask + b * p.mask_batch : nullptr;
  }
  template <class T>
  NORMA_DEVICE T* at(const HeadTensor& x) const {
    return static_cast<T*>(x.data) + b * x.batch + h * x.head;
  }
  /// How many columns row i sees when no key mask hides any.
  NORMA_DEVICE std::int32_t length(std::int32_t i) const {
    if (!p.causal) return p.keys;
    const std::int32_t n = i + p.keys - p.rows + 1;
    return n < 0 ? 0 : n < p.keys ? n : p.keys;
  }
  /// The same of the rows [first, first + count) together; 0 where they are past the last row.
  NORMA_DEVICE std::int32_t length_of_rows(std::int32_t first, std::int32_t count) const {
    return first >= p.rows ? 0 : length(first + count < p.rows ? first + count - 1 : p.rows - 1);
  }
  NORMA_DEVICE bool visible(std::int32_t i, std::int32_t j) const {
    return i < p.rows && j < length(i) && (!mask || mask[j * p.mask_key] != 0);
  }
  /// Rows first to last see all columns below this one; 0 where that takes a look at each pair.
  NORMA_DEVICE std::int32_t seen_by_all(std::int32_t first, std::int32_t last) const {
    return mask || last >= p.rows ? 0 : length(first);  // later rows see more
  }
  NORMA_DEVICE std::int32_t visible_count(std::int32_t i) const {
    const std::int32_t n = length(i);
    if (!mask) return n;
    if (p.seen_before) return p.seen_before[std::int64_t{b} * (p.keys + 1) + n];
    std::int32_t count = 0;
    NORMA_ROLLED
    for (std::int32_t j = 0; j < n; ++j) count += mask[j * p.mask_key] != 0;
    return count;
  }
  /// Whether row i is divided by its sum and sees one key, so that its weight is 1 whatever the score.
  NORMA_DEVICE bool lone(std::int32_t i) const { return p.normalize && visible_count(i) == 1; }
  /// What phi is multiplied by in row i.
  NORMA_DEVICE float row_factor(std::int32_t i) const {
    if (p.row_scale == RowScale::constant || i >= p.rows) return p.factor;
    const std::int32_t n = visible_count(i);
    const float count = static_cast<float>(n > 1 ? n : 1);
    return p.factor / (p.row_scale == RowScale::inverse_visible ? count : std::sqrt(count));
  }
  /// What dropout multiplies weight (i, j) by.
  NORMA_DEVICE float keep(std::int32_t i, std::int32_t j) const {
    const std::uint64_t at = word_of(i, j);
    return keeps(word(p.stream.now().block(at / 4), at % 4), p.drop_below) ? p.keep_scale : 0;
  }
  /// Bit c: whether dropout leaves weight (i, j + c), for c < count up to 28.
  NORMA_DEVICE std::uint32_t kept_run(const RandomStream& stream, std::int32_t i, std::int32_t j, std::uint32_t count) const {
    const std::uint64_t at = word_of(i, j);
    const std::uint32_t before = static_cast<std::uint32_t>(at % 4);  // of the first block's words
    std::uint32_t kept = 0;
    NORMA_ROLLED
    for (std::uint32_t c = 0; c < before + count; c += 4) {
      const Philox block = stream.block(at / 4 + c / 4);
      NORMA_UNROLL
      for (std::uint32_t k = 0; k < 4; ++k) kept |= (keeps(block[k], p.drop_below) ? 1u << k : 0u) << c;
    }
    return kept >> before & ((1u << count) - 1);
  }
  NORMA_DEVICE float* lse(std::int32_t i) const { return p.lse + b * p.lse_batch + h * p.lse_head + i * p.lse_row; }

 private:
  NORMA_DEVICE std::uint64_t word_of(std::int32_t i, std::int32_t j) const {
    return static_cast<std::uint64_t>((((std::int64_t{p.first_batch} + b) * p.heads + h) * p.rows + i) * p.keys + j);
  }
  /// Chosen, not indexed: an index would put the block into local memory.
  NORMA_DEVICE static std::uint32_t word(const Philox& block, std::uint64_t k) {
    const std::uint32_t low = k % 2 ? block[1] : block[0], high = k % 2 ? block[3] : block[2];
    return k / 2 ? high : low;
  }
};

// What a thread knows of its pairs in a tile of fragments, which are those of two rows, g and g + 8, or of two keys: bit 16 half + c stands
// for the pair with column, or row, start + c / 2 * 8 + 2 (lane % 4) + c % 2.
constexpr std::uint32_t all_pairs = 0xffffffffu;

/// Of element c = 4 n + k of the fragments.
NORMA_DEVICE bool has_pair(std::uint32_t pairs, int c) { return pairs >> (c % 4 / 2 * 16 + c / 4 * 2 + c % 2) & 1; }

/// Of one row or key: what lies below `end`.
NORMA_DEVICE std::uint32_t places_below(std::int32_t start, std::int32_t end) {
  const std::int32_t n = end - start - 2 * static_cast<std::int32_t>(thread_id() % 4);
  if (n <= 0) return 0;
  const std::int32_t count = n / 8 * 2 + (n % 8 < 2 ? n % 8 : 2);
  return count < 16 ? (1u << count) - 1 : 0xffffu;
}
/// The same out of a bit for each column from `start` on.
NORMA_DEVICE std::uint32_t own_places(std::uint64_t bits) {
  bits = bits >> 2 * (thread_id() % 4) & 0x0303030303030303u;
  bits = (bits | bits >> 6) & 0x000f000f000f000fu;
  bits = (bits | bits >> 12) & 0x000000ff000000ffu;
  return static_cast<std::uint32_t>(bits | bits >> 24);
}
/// Which of `count` keys, up to 64, from `start` on the key mask shows; the warp reads it together.
template <int count>
NORMA_DEVICE std::uint64_t shown_keys(const Head& head, std::int32_t start) {
  const std::int32_t lane = static_cast<std::int32_t>(thread_id() % warp_size);
  const auto shown = [&](std::int32_t j) { return j < head.p.keys && head.mask[j * head.p.mask_key] != 0; };
  const std::uint64_t low = ballot(shown(start + lane));
  return count > 32 ? std::uint64_t{ballot(shown(start + 32 + lane))} << 32 | low : low;
}
/// Whether all rows of the warp, the thread's are `row` and row + 8, see all of 8 * fragments columns from `start` on.
template <int fragments>
NORMA_DEVICE bool rows_see_all(const Head& head, int row, int start) {
  return ballot(start + 8 * fragments <= head.seen_by_all(row, row + 8)) == 0xffffffffu;
}
/// Whether rows `row` and row + 8 see columns from `start` on. The lanes of a warp call it together.
template <int fragments>
NORMA_DEVICE std::uint32_t pairs_of_rows(const Head& head, std::int32_t row, std::int32_t start) {
  const std::uint32_t shown = head.mask ? own_places(shown_keys<8 * fragments>(head, start)) : 0xffffu;
  std::uint32_t pairs = 0;
  NORMA_ROLLED
  for (int half = 0; half < 2; ++half) pairs |= (places_below(start, head.length_of_rows(row + 8 * half, 1)) & shown) << 16 * half;
  return pairs;
}
/// Whether rows from `start` on see keys `key` and key + 8.
NORMA_DEVICE std::uint32_t pairs_of_keys(const Head& head, std::int32_t key, std::int32_t start) {
  const AttentionProblem& p = head.p;
  std::uint32_t pairs = 0;
  NORMA_ROLLED
  for (int half = 0; half < 2; ++half) {
    const std::int32_t j = key + 8 * half;
    if (j >= p.keys || (head.mask && head.mask[j * p.mask_key] == 0)) continue;
    const std::uint32_t hidden = p.causal ? places_below(start, j + p.rows - p.keys) : 0;
    pairs |= (places_below(start, p.rows) & ~hidden) << 16 * half;
  }
  return pairs;
}

/// Whether dropout leaves the pairs of rows `row` and row + 8 with columns from `start` on. Each of a row's four lanes draws a quarter of its
/// words.
template <int fragments>
NORMA_DEVICE std::uint32_t kept_of_rows(const Head& head, std::int32_t row, std::int32_t start) {
  constexpr int own = 2 * fragments;
  using Bits = std::conditional_t<(fragments > 4), std::uint64_t, std::uint32_t>;
  const RandomStream stream = head.p.stream.now();
  const int first = own * static_cast<int>(thread_id() % 4);
  std::uint32_t pairs = 0;
  NORMA_ROLLED
  for (int half = 0; half < 2; ++half) {
    Bits bits = Bits{head.kept_run(stream, row + 8 * half, start + first, own)} << first;
    bits |= exchange_xor(bits, 1);
    bits |= exchange_xor(bits, 2);
    pairs |= own_places(bits) << 16 * half;
  }
  return pairs;
}
/// The same of keys `key` and key + 8, rows from `start` on: a lane draws a row's words for all of the warp's sixteen keys, of which each
/// thread then takes its two; half of them where there are 16 rows.
template <int fragments>
NORMA_DEVICE std::uint32_t kept_of_keys(const Head& head, std::int32_t key, std::int32_t start) {
  constexpr int rows = fragments < 4 ? 16 : 32, own = rows / 2;
  static_assert(8 * fragments % rows == 0);
  const RandomStream stream = head.p.stream.now();
  const int lane = static_cast<int>(thread_id() % warp_size), g = lane / 4, first = lane / rows * own;
  std::uint32_t pairs = 0;
  NORMA_ROLLED
  for (int from = 0; from < fragments; from += rows / 8) {
    std::uint32_t bits = head.kept_run(stream, start + 8 * from + lane % rows, key - g + first, own) << first;
    if (rows < 32) bits |= exchange_xor(bits, rows);
    bits |= exchange_xor(bits, 1) << 16;  // in even lanes: with the next row's
    NORMA_UNROLL
    for (int n = 0; n < rows / 8; ++n) {
      std::uint32_t x = exchange_from(bits, static_cast<unsigned>(8 * n + 2 * (lane % 4))) >> g & 0x01010101u;  // key g, g + 8; next row's
      x = (x | x >> 15) & 0x0303u;
      pairs |= ((x | x << 8) & 0x00030003u) << 2 * (from + n);
    }
  }
  return pairs;
}

}  // namespace norma::cuda
