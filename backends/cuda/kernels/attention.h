// Fused attention as the host calls it: one problem as plain data (the meaning of its parts: Backend::attention).
#pragma once

#include <cstddef>

#include "backends/cuda/kernels/attention_shared.h"
#include "core/element.h"
#include "core/random.h"
#include "core/scoring.h"

namespace norma::cuda {

enum class Phi : std::int32_t { softmax, monomial, polynomial, sigmoid, relu };  // monomial: s^1 to s^4, its coefficient in `factor`

/// [B, H, rows, width] with its last axis dense.
struct HeadTensor {
  void* data = nullptr;
  std::int64_t batch = 0, head = 0, row = 0;  // strides
};

struct AttentionProblem {
  HeadTensor q, k, v, out, dout, dq, dk, dv;
  std::int32_t batches = 0, heads = 0, rows = 0, keys = 0, d = 0, e = 0;
  std::int32_t first_batch = 0;  // where these examples begin in the batch, for the words of dropout
  float scale = 1;

  Phi phi = Phi::softmax;
  std::int32_t degree = 0;
  float coefficient[Scoring::max_degree + 1] = {};
  float factor = 1;  // of every weight, on top of row_scale
  RowScale row_scale = RowScale::constant;
  bool normalize = false;    // rows divided by their sum
  bool causal = false;       // row i sees columns j <= i + keys - rows
  bool heads_first = false;  // the heaviest blocks of all heads begin before lighter ones; else the blocks of a head are neighbours in a grid
  float bias = 0;          // Phi::sigmoid

  const std::uint8_t* key_mask = nullptr;  // [B, keys]: 0 hides a column
  std::int64_t mask_batch = 0, mask_key = 0;
  const std::int32_t* seen_before = nullptr;  // [B, keys + 1]: visible keys before each; with a key mask, where weights depend on how many there are

  bool drop = false;
  std::uint64_t drop_below = 0;  // a word below this drops the weight
  float keep_scale = 1;
  RandomStream stream;

  float* lse = nullptr;  // [B, H, rows]: log-sum-exp by row (softmax); written forward if there, read backward
  std::int64_t lse_batch = 0, lse_head = 0, lse_row = 0;
  float *row_delta = nullptr, *row_factor = nullptr;  // backward: [B H, rows], from the rows' kernel to the keys' kernel

  double* partial_stats = nullptr;  // [B H, row blocks, attention_stats]; null: not measured
  double* stats = nullptr;          // [B, H, attention_stats]
};

/// Fills seen_before from key_mask.
void count_visible_keys(void* stream, const AttentionProblem& p, std::int32_t* seen_before);

/// f32 or bf16 elements, d and e up to attention_max_width.
constexpr std::int32_t attention_max_width = 128, forward_block_rows = 64;
void attention_forward_scalar(void* stream, const AttentionProblem& p, DType dtype);
constexpr std::int32_t backward_block_rows_scalar = 32;
void attention_backward_scalar(void* stream, const AttentionProblem& p, DType dtype);

/// bf16 on tensor cores: d and e multiples of 8, all rows at multiples of 16 bytes; softmax and polynomials.
constexpr std::int32_t backward_block_rows_bf16 = 64;
void attention_forward_bf16(void* stream, const AttentionProblem& p);
void attention_backward_bf16(void* stream, const AttentionProblem& p);
/// The same on wgmma, for compute capability 9.0; partial_stats of blocks of wgmma_block_rows.
constexpr std::int32_t wgmma_block_rows = 128;
void attention_forward_wgmma(void* stream, const AttentionProblem& p);
void attention_backward_wgmma(void* stream, const AttentionProblem& p);
/// The backward pass with a whole head in the shared memory of one block, so that scores are computed once; its
/// statistics are of one block a head. Whether sizes allow it where a block may have `shared_bytes`: up to 256 rows and
/// keys with widths up to 64, up to 128 keys with wider ones.
bool attention_fits_resident(const AttentionProblem& p, std::size_t shared_bytes);
void attention_backward_resident(void* stream, const AttentionProblem& p);

/// Linear form: polynomials of degree 1 without dropout, whose matrix need not be formed (docs/linear-attention.md). Rows or keys of a head
/// ("rows" below) are summed in pieces; under a causal mask these are chunks, and each has a state of its own. Rows count by
/// weight(r): that of row r (its scale) with `of_rows`, else whether key r is seen.
constexpr LinearCut linear_cut(const AttentionProblem& p, bool of_rows, int size) {
  return linear_cut(of_rows ? p.rows : p.keys, of_rows ? p.keys : p.rows, p.causal, size);
}
constexpr LinearCut linear_pieces(const AttentionProblem& p, bool of_rows) {
  return linear_cut(p, of_rows, p.causal ? linear_chunk(p.d, p.e) : linear_piece);
}
/// States of a head: one, or one a chunk.
constexpr int linear_states(const AttentionProblem& p) { return p.causal ? linear_pieces(p, true).pieces() : 1; }

/// state [B H, states, m + 1, n] = sum of weight(r) x_r y_r^T, and below it sum of weight(r) y_r: over all r; under a causal mask over
/// those of the chunks before the state's own, of rows over those of the chunks after it.
struct LinearState {
  HeadTensor x, y;
  std::int32_t m = 0, n = 0;  // widths of x and y, up to attention_max_width
  bool of_rows = false;
  float* state = nullptr;
  float* parts = nullptr;  // [B H, pieces, m + 1, n]: of each piece alone; `state` itself where there are as many states
};
void linear_state(void* stream, const AttentionProblem& p, const LinearState& s, DType dtype);
/// out_r = weight(r) (slope x_r state + shift total), x m wide and out n; `transposed`: the state is [n, m], and there is no shift. Under a
/// causal mask also what r sees in its own chunk: the sum over the others o of weight(r) (slope x_r . y_o + shift) weight(o) z_o.
struct LinearProduct {
  HeadTensor x, y, z, out;
  std::int32_t m = 0, n = 0;
  bool of_rows = false, transposed = false;
  const float* state = nullptr;
  float slope = 0, shift = 0;
};
void linear_product(void* stream, const AttentionProblem& p, const LinearProduct& x, DType dtype);

/// stats from partial_stats of `blocks` row blocks, in their order; `gradients`: only grad_a2 and grad_s2.
void merge_attention_stats(void* stream, const AttentionProblem& p, std::int32_t blocks, bool gradients);

}  // namespace norma::cuda
