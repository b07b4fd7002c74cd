// Products of bf16 tiles in shared memory on tensor cores, as fragments of 16 rows a warp, and what a row of them needs. For .cu files.
#pragma once

#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"

namespace norma::cuda {

constexpr int mma_warps = 4, mma_threads = 32 * mma_warps;

/// How many blocks a multiprocessor is to hold at a time. With widths up to 64 a fourth costs registers and has room in shared memory only from
/// 228 KiB on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int mma_blocks(int chunks) { return chunks > 4 ? 2 : 4; }
#else
constexpr int mma_blocks(int chunks) { return chunks > 4 ? 2 : chunks > 2 ? 3 : 4; }
#endif

/// f(chunks, softmax), with the bucket of the problem's widths and whether it is softmax as constants.
template <class F>
void with_width(const AttentionProblem& p, F f) {
  const auto of_width = [&](auto chunks) { p.phi == Phi::softmax ? f(chunks, std::true_type{}) : f(chunks, std::false_type{}); };
  switch (mma_chunks(p.d, p.e)) {
    case 2: return of_width(std::integral_constant<int, 2>{});
    case 4: return of_width(std::integral_constant<int, 4>{});
    default: return of_width(std::integral_constant<int, 8>{});
  }
}

/// A thread's part of copying rows [first, ...) of x to a tile: 16 bytes of every so many rows, always in the same columns. Zeros beyond
/// the rows and the width.
template <int chunks>
class RowCopies {
 public:
  static constexpr unsigned pieces = chunks * 2;  // of a row
  /// By `threads`, a multiple of `pieces`. place(row, piece): where those 16 bytes go; rows lie row_bytes apart, as far as one thread's do.
  template <class Place>
  NORMA_DEVICE RowCopies(const bf16* x, std::int64_t x_row, int first, int rows, int width, unsigned threads, int row_bytes, Place place)
      : x_(x), row_(static_cast<int>(thread_id() / pieces)), step_(static_cast<int>(threads / pieces)) {
    const int piece = static_cast<int>(thread_id() % pieces);
    present_ = piece * 8 < width ? rows - first : 0;
    from_ = x + (first + row_) * x_row + piece * 8, x_step_ = step_ * x_row;
    to_ = place(row_, piece), to_step_ = step_ * row_bytes;
  }
  NORMA_DEVICE int row() const { return row_; }
  NORMA_DEVICE void next() {
    copy_async(to_, row_ < present_ ? from_ : x_, row_ < present_);
    row_ += step_, from_ += x_step_, to_ += to_step_;
  }

 private:
  const bf16 *x_, *from_;
  char* to_;
  std::int64_t x_step_;
  int row_, step_, to_step_, present_;  // present: rows of the tile that x has
};
/// To a tile of mma_pitch.
template <int chunks>
NORMA_DEVICE RowCopies<chunks> row_copies(const bf16* x, std::int64_t x_row, int first, int rows, int width, bf16* to, int threads) {
  constexpr int row_bytes = mma_pitch(chunks) * static_cast<int>(sizeof(bf16));
  return {x, x_row, first, rows, width, static_cast<unsigned>(threads), row_bytes,
          [to](int row, int piece) { return reinterpret_cast<char*>(to) + row * row_bytes + piece * 16; }};
}
/// Starts copying `count` rows, by a block of `threads`.
template <int chunks, int count, int threads = mma_threads>
NORMA_DEVICE void fetch_rows(const bf16* x, std::int64_t x_row, int first, int rows, int width, bf16* to) {
  constexpr int all = count * chunks * 2, copies = all / threads;
  RowCopies<chunks> mine = row_copies<chunks>(x, x_row, first, rows, width, to, threads);
  NORMA_UNROLL
  for (int i = 0; i < copies; ++i) mine.next();
  if (copies * threads < all && mine.row() < count) mine.next();
}

NORMA_DEVICE std::uint32_t pack_pair(float low, float high) {
  return static_cast<std::uint32_t>(bf16(low).bits) | static_cast<std::uint32_t>(bf16(high).bits) << 16;
}

/// 16 rows of a tile as left operands: `kept` in registers from arrived() on, else read for each product.
template <int chunks, bool kept>
class LeftRows {
 public:
  NORMA_DEVICE explicit LeftRows(const bf16* rows) {
    const int lane = static_cast<int>(thread_id()) % 32;
    from_ = rows + lane % 16 * mma_pitch(chunks) + lane / 16 * 8;
  }
  NORMA_DEVICE void arrived() {
    if constexpr (kept) {
      NORMA_UNROLL
      for (int c = 0; c < chunks; ++c) load_matrices(fragments_[c], from_ + c * 16);
    }
  }
  /// Columns from 16 c on.
  NORMA_DEVICE void get(int c, std::uint32_t (&left)[4]) const {
    if constexpr (kept) {
      NORMA_UNROLL
      for (int x = 0; x < 4; ++x) left[x] = fragments_[c][x];
    } else {
      load_matrices(left, from_ + c * 16);
    }
  }

 private:
  const bf16* from_;
  std::uint32_t fragments_[kept ? chunks : 1][4];
};

/// s[n] = the 16 x 8 fragment of a_i . b_j for the 16 rows `a` and rows 8 n.. of the 8 * fragments at `b`.
template <int chunks, bool kept, int fragments>
NORMA_DEVICE void multiply_rows(const LeftRows<chunks, kept>& a, const bf16* b, float (&s)[fragments][4]) {
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int n = 0; n < fragments; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
  NORMA_UNROLL
  for (int c = 0; c < chunks; ++c) {
    std::uint32_t left[4];
    a.get(c, left);
    NORMA_UNROLL
    for (int n = 0; n < fragments; n += 2) {
      std::uint32_t right[4];
      load_matrices(right, b + (n * 8 + lane / 16 * 8 + lane % 8) * mma_pitch(chunks) + c * 16 + lane / 8 % 2 * 8);
      mma_16x8x16(s[n], left, right[0], right[1]);
      mma_16x8x16(s[n + 1], left, right[2], right[3]);
    }
  }
}
/// The 16 rows at `a`.
template <int chunks, int fragments>
NORMA_DEVICE void multiply_rows(const bf16* a, const bf16* b, float (&s)[fragments][4]) {
  multiply_rows(LeftRows<chunks, false>(a), b, s);
}

/// sums += w b for fragments w, 16 x 8 * fragments, rounded to bf16, and the 8 * fragments rows at `b`.
template <int chunks, int fragments>
NORMA_DEVICE void add_weighted(const float (&w)[fragments][4], const bf16* b, float (&sums)[chunks * 2][4]) {
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int j = 0; j < fragments / 2; ++j) {
    const std::uint32_t left[4] = {pack_pair(w[2 * j][0], w[2 * j][1]), pack_pair(w[2 * j][2], w[2 * j][3]),
                                   pack_pair(w[2 * j + 1][0], w[2 * j + 1][1]), pack_pair(w[2 * j + 1][2], w[2 * j + 1][3])};
    NORMA_UNROLL
    for (int n = 0; n < chunks * 2; n += 2) {
      std::uint32_t right[4];
      load_matrices_transposed(right,
                               b + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * mma_pitch(chunks) + n * 8 + lane / 16 * 8);
      mma_16x8x16(sums[n], left, right[0], right[1]);
      mma_16x8x16(sums[n + 1], left, right[2], right[3]);
    }
  }
}

/// Row g or g + 8 of the warp's fragments times `factor`, as bf16.
template <int fragments>
NORMA_DEVICE void store_row(const float (&sums)[fragments][4], int half, float factor, int width, bf16* row) {
  const int t = static_cast<int>(thread_id()) % 4;
  NORMA_UNROLL
  for (int n = 0; n < fragments; ++n)
    if (n * 8 < width)
      *reinterpret_cast<std::uint32_t*>(row + n * 8 + 2 * t) = pack_pair(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
}

/// How the weights of the thread's rows, `row` and row + 8, are made; but for the sums that rows are divided by. delta is dO_i . O_i for rows
/// whose weights sum to 1, else 0: the four lanes of a row call this together, and both rows are on their way before either is summed.
template <bool softmax>
NORMA_DEVICE void start_rows(const Head& head, int row, RowState (&state)[2]) {
  const AttentionProblem& p = head.p;
  float delta[2] = {0, 0};
  if (softmax || p.normalize) {
    const bf16 *out[2], *dout[2];
    NORMA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int at = row + 8 * half < p.rows ? row + 8 * half : p.rows - 1;  // one that is there; left out below
      out[half] = head.at<bf16>(p.out) + at * p.out.row, dout[half] = head.at<bf16>(p.dout) + at * p.dout.row;
    }
    NORMA_ROLLED
    for (int c = static_cast<int>(thread_id()) % 4 * 8; c < p.e; c += 32) {  // widths are multiples of 8, rows of 16 bytes
      const Pack<bf16, 8> x[2] = {load_pack<8>(out[0] + c), load_pack<8>(out[1] + c)};
      const Pack<bf16, 8> y[2] = {load_pack<8>(dout[0] + c), load_pack<8>(dout[1] + c)};
      NORMA_UNROLL
      for (int half = 0; half < 2; ++half) NORMA_UNROLL
      for (int i = 0; i < 8; ++i) delta[half] = std::fma(convert<float>(y[half].v[i]), convert<float>(x[half].v[i]), delta[half]);
    }
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const bool there = row + 8 * half < p.rows;
    state[half].factor = head.row_factor(row + 8 * half);
    state[half].delta = reduce_lanes<4>(there ? delta[half] : 0, Plus{});
    if (!softmax) state[half].slope = state[half].factor;
    if (softmax && there) state[half].shift = *head.lse(row + 8 * half) * log2_e;
  }
}
/// Rows are divided by their sums, which the four lanes of a row have in parts.
NORMA_DEVICE void divide_by_sums(const Head& head, int row, const float (&sum)[2], RowState (&state)[2]) {
  for (int half = 0; half < 2; ++half) state[half].divide_by(reduce_lanes<4>(sum[half], Plus{}), head.lone(row + 8 * half));
}

}  // namespace norma::cuda
