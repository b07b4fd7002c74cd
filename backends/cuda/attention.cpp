// The verbs attention and attention_backward: whether the fused kernels cover the case, and the problem as plain data.
#include <algorithm>
#include <cmath>
#include <optional>

#include "backends/common/draws.h"
#include "backends/common/views.h"
#include "backends/cuda/attention_products.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/kernels/attention.h"

namespace norma::cuda {
namespace {

constexpr Index most_heads = 65535;  // of an example: a grid's second axis
constexpr std::int32_t most_blocks = 0x7fffffff;  // along a grid's first

/// The function of the scores as the kernels have it; none where they do not, and the composition runs.
std::optional<Phi> phi_of(const Scoring& s) {
  switch (s.kind) {
    case Scoring::Kind::softmax: return Phi::softmax;
    case Scoring::Kind::sigmoid: return Phi::sigmoid;
    case Scoring::Kind::relu: return Phi::relu;
    case Scoring::Kind::polynomial: return s.monomial() && s.degree() >= 1 && s.degree() <= 4 ? Phi::monomial : Phi::polynomial;
    default: return std::nullopt;
  }
}

/// Layouts, sizes and options that the kernels are written for.
bool covered(const Attention& a, const View& q, const View& v, std::initializer_list<const View*> tensors) {
  for (const View* x : tensors)
    if (x->numel() == 0 || !heads_have_dense_rows(*x) || x->dtype != q.dtype || x->shape()[2] > (1 << 24)) return false;
  if (q.dtype != DType::f32 && q.dtype != DType::bf16) return false;
  if (q.shape()[3] > attention_max_width || v.shape()[3] > attention_max_width) return false;
  if (q.shape()[0] > (1 << 24) || q.shape()[1] > most_heads) return false;
  return phi_of(a.scoring) && options_fit(a);
}

/// bf16 with rows that 16-byte copies can take; softmax and polynomials.
bool for_tensor_cores(const Attention& a, const View& q, std::initializer_list<const View*> tensors) {
  if (q.dtype != DType::bf16 || (a.scoring.kind != Scoring::Kind::softmax && a.scoring.kind != Scoring::Kind::polynomial)) return false;
  for (const View* x : tensors) {
    if (x->shape()[3] % 8 != 0 || reinterpret_cast<std::uintptr_t>(x->data) % 16 != 0) return false;
    for (int axis = 0; axis < 3; ++axis)
      if (x->shape()[axis] > 1 && x->layout.stride(axis) % 8 != 0) return false;
  }
  return true;
}

HeadTensor head_tensor(const View& x) { return {x.data, x.layout.stride(0), x.layout.stride(1), x.layout.stride(2)}; }

void describe_scoring(const Scoring& s, AttentionProblem& p) {
  const auto keys = static_cast<double>(p.keys);
  double factor = 1;
  p.degree = s.degree();
  for (std::size_t i = 0; i < s.coefficient.size(); ++i) p.coefficient[i] = static_cast<float>(s.coefficient[i]);
  p.normalize = s.normalize;
  p.bias = static_cast<float>(s.sigmoid_bias(keys));
  p.phi = *phi_of(s);
  if (p.phi == Phi::softmax) return;
  if (p.phi == Phi::monomial) factor = s.coefficient[static_cast<std::size_t>(s.degree())];
  if (s.normalize) {
    factor = 1;  // a constant factor falls out of a / sum a
  } else {
    factor /= s.divisor(keys), p.row_scale = s.row_scale();
  }
  p.factor = static_cast<float>(factor);
}

AttentionProblem describe(const Attention& a, const View& q, const View& k, const View& v, const View& out) {
  AttentionProblem p;
  p.q = head_tensor(q), p.k = head_tensor(k), p.v = head_tensor(v), p.out = head_tensor(out);
  const auto size = [](const View& x, int axis) { return static_cast<std::int32_t>(x.shape()[axis]); };
  p.batches = size(q, 0), p.heads = size(q, 1), p.rows = size(q, 2), p.d = size(q, 3), p.keys = size(k, 2), p.e = size(v, 3);
  p.scale = static_cast<float>(a.scale);
  describe_scoring(a.scoring, p);
  p.causal = a.causal;
  if (a.key_mask) {
    p.key_mask = a.key_mask.as<std::uint8_t>();
    p.mask_batch = a.key_mask.layout.stride(0), p.mask_key = a.key_mask.layout.stride(1);
  }
  p.drop = a.dropout > 0;
  p.drop_below = drop_threshold(a.dropout), p.keep_scale = static_cast<float>(keep_scale(a.dropout));
  p.stream = a.stream;
  return p;
}

void take_lse(const View& lse, AttentionProblem& p) {
  p.lse = lse.as<float>();
  p.lse_batch = lse.layout.stride(0), p.lse_head = lse.layout.stride(1), p.lse_row = lse.layout.stride(2);
}

Index blocks_of(const AttentionProblem& p, Index rows) { return (p.rows + rows - 1) / rows; }
Index counts_of(const AttentionProblem& p) {
  return p.key_mask && (p.row_scale != RowScale::constant || p.normalize) ? Index{p.batches} * (p.keys + 1) : 0;
}

/// Examples [first, first + count) of the batch as a problem of their own.
AttentionProblem slice(AttentionProblem p, std::int32_t first, std::int32_t count, DType dtype) {
  for (HeadTensor* x : {&p.q, &p.k, &p.v, &p.out, &p.dout, &p.dq, &p.dk, &p.dv})
    if (x->data) x->data = static_cast<char*>(x->data) + first * x->batch * static_cast<Index>(size_of(dtype));
  if (p.key_mask) p.key_mask += first * p.mask_batch;
  if (p.seen_before) p.seen_before += Index{first} * (p.keys + 1);
  if (p.lse) p.lse += first * p.lse_batch;
  if (p.stats) p.stats += Index{first} * p.heads * attention_stats;
  p.batches = count, p.first_batch = first;
  return p;
}
/// Under a causal mask blocks differ in weight, so heads lie along a grid's first axis, where its second has room for all blocks of a head.
bool heads_first(const Runtime& runtime, const AttentionProblem& p) {
  const Index smallest = std::min({forward_block_rows, backward_block_rows_scalar, backward_block_rows_bf16, wgmma_block_rows});
  return p.causal && (std::max(p.rows, p.keys) + smallest - 1) / smallest <= Index{runtime.grid_y()};
}
/// f of one slice of the batch after another, each of as many heads as their axis of a grid takes.
template <class F>
void for_slices(const Runtime& runtime, const AttentionProblem& p, DType dtype, F f) {
  const std::int32_t each = (p.heads_first ? most_blocks : static_cast<std::int32_t>(runtime.grid_y())) / p.heads;
  for (std::int32_t first = 0; first < p.batches; first += each) f(slice(p, first, std::min(each, p.batches - first), dtype));
}

/// Only where it is asked for: when it is the faster one has not been measured.
bool linear_form(const Attention& a) {
  return a.form == AttentionForm::linear && a.scoring.kind == Scoring::Kind::polynomial && a.scoring.degree() == 1 &&
         !a.scoring.normalize && a.dropout == 0;
}
/// phi(s) = shift + slope q.k, the rest of it in the rows' factors.
float slope_of(const AttentionProblem& p) { return p.scale * (p.phi == Phi::monomial ? 1 : p.coefficient[1]); }
float shift_of(const AttentionProblem& p) { return p.phi == Phi::monomial ? 0 : p.coefficient[0]; }

/// Floats of the states of all heads, or of their pieces.
Index state_floats(const AttentionProblem& p, int states) { return Index{p.batches} * p.heads * states * (p.d + 1) * p.e; }

/// A dense tensor of x's shape at `data`.
View dense_at(void* data, const View& x) { return {data, Layout(x.shape()), x.dtype}; }

}  // namespace

void CudaBackend::sum_state(const AttentionProblem& p, LinearState s, DType dtype) {
  const int pieces = linear_pieces(p, s.of_rows).pieces();
  const bool apart = pieces > linear_states(p);
  const Scratch parts = scratch<float>(apart ? state_floats(p, pieces) : 0);
  s.parts = apart ? parts.as<float>() : s.state;
  linear_state(stream(), p, s, dtype);
}

void CudaBackend::linear_attention(const AttentionForward& a, const AttentionProblem& p) {
  if (a.stats) {  // of the matrix, formed beside
    const Scratch unused = scratch<char>(a.out.numel() * static_cast<Index>(size_of(a.out.dtype)));
    AttentionForward watched = a;
    watched.form = AttentionForm::quadratic, watched.out = dense_at(unused.as<void>(), a.out);
    attention(watched);
  }
  for_slices(*runtime_, p, a.q.dtype, [&](const AttentionProblem& x) {
    const Scratch scratch_state = scratch<float>(state_floats(x, linear_states(x)));
    float* state = scratch_state.as<float>();
    sum_state(x, {x.k, x.v, x.d, x.e, false, state}, a.q.dtype);
    linear_product(stream(), x, {x.q, x.k, x.v, x.out, x.d, x.e, true, false, state, slope_of(x), shift_of(x)}, a.q.dtype);
  });
}

void CudaBackend::linear_attention_backward(const AttentionBackward& a, const AttentionProblem& p) {
  const DType dtype = a.q.dtype;
  if (a.stats) {
    const auto room = [&](const View& x) { return scratch<char>(x.numel() * static_cast<Index>(size_of(dtype))); };
    const Scratch dq = room(a.q), dk = room(a.k), dv = room(a.v);
    AttentionBackward watched = a;
    watched.form = AttentionForm::quadratic;
    watched.dq = dense_at(dq.as<void>(), a.q), watched.dk = dense_at(dk.as<void>(), a.k), watched.dv = dense_at(dv.as<void>(), a.v);
    attention_backward(watched);
  }
  for_slices(*runtime_, p, dtype, [&](const AttentionProblem& x) {
    const Scratch scratch_state = scratch<float>(state_floats(x, linear_states(x)));  // of keys, then of rows
    float* state = scratch_state.as<float>();
    const float slope = slope_of(x), shift = shift_of(x);
    sum_state(x, {x.k, x.v, x.d, x.e, false, state}, dtype);
    linear_product(stream(), x, {x.dout, x.v, x.k, x.dq, x.e, x.d, true, true, state, slope}, dtype);
    sum_state(x, {x.q, x.dout, x.d, x.e, true, state}, dtype);
    linear_product(stream(), x, {x.v, x.dout, x.q, x.dk, x.e, x.d, false, true, state, slope}, dtype);
    linear_product(stream(), x, {x.k, x.q, x.dout, x.dv, x.d, x.e, false, false, state, slope, shift}, dtype);
  });
}

bool CudaBackend::attention(const AttentionForward& a) {
  if (!covered(a, a.q, a.v, {&a.q, &a.k, &a.v, &a.out})) return false;
  if (!all_are(DType::f32, a.row_lse)) return false;
  AttentionProblem p = describe(a, a.q, a.k, a.v, a.out);
  if (a.row_lse) take_lse(a.row_lse, p);
  const Scratch counts = scratch<std::int32_t>(counts_of(p));
  if (counts_of(p) > 0) {
    count_visible_keys(stream(), p, counts.as<std::int32_t>());
    p.seen_before = counts.as<std::int32_t>();
  }
  if (linear_form(a)) {
    linear_attention(a, p);
    return true;
  }
  const bool tensor_cores = for_tensor_cores(a, a.q, {&a.q, &a.k, &a.v, &a.out});
  const bool wgmma = tensor_cores && attention_products(*runtime_) == AttentionProducts::wgmma;
  const Index blocks = blocks_of(p, wgmma ? wgmma_block_rows : forward_block_rows);
  p.stats = a.stats.as<double>();
  p.heads_first = heads_first(*runtime_, p);
  for_slices(*runtime_, p, a.q.dtype, [&](AttentionProblem x) {
    const Scratch partial = scratch<double>(a.stats ? Index{x.batches} * x.heads * blocks * attention_stats : 0);
    if (a.stats) x.partial_stats = partial.as<double>();
    if (wgmma)
      attention_forward_wgmma(stream(), x);
    else if (tensor_cores)
      attention_forward_bf16(stream(), x);
    else
      attention_forward_scalar(stream(), x, a.q.dtype);
    if (a.stats) merge_attention_stats(stream(), x, static_cast<std::int32_t>(blocks), false);
  });
  return true;
}

bool CudaBackend::attention_backward(const AttentionBackward& a) {
  if (!covered(a, a.q, a.v, {&a.q, &a.k, &a.v, &a.dout, &a.dq, &a.dk, &a.dv})) return false;
  if (!saved_rows_fit(a)) return false;
  const bool softmax = a.scoring.kind == Scoring::Kind::softmax, needs_out = softmax || a.scoring.normalize;
  AttentionProblem p = describe(a, a.q, a.k, a.v, needs_out ? a.out : a.dout);
  p.dout = head_tensor(a.dout), p.dq = head_tensor(a.dq), p.dk = head_tensor(a.dk), p.dv = head_tensor(a.dv);
  if (softmax) take_lse(a.row_lse, p);
  const Scratch counts = scratch<std::int32_t>(counts_of(p));
  if (counts_of(p) > 0) {
    count_visible_keys(stream(), p, counts.as<std::int32_t>());
    p.seen_before = counts.as<std::int32_t>();
  }
  if (linear_form(a)) {
    linear_attention_backward(a, p);
    return true;
  }
  const bool tensor_cores = for_tensor_cores(a, a.q, {&a.q, &a.k, &a.v, needs_out ? &a.out : &a.dout, &a.dout, &a.dq, &a.dk, &a.dv});
  const bool wgmma = tensor_cores && attention_products(*runtime_) == AttentionProducts::wgmma;
  const bool resident = tensor_cores && !wgmma && attention_fits_resident(p, runtime_->block_shared_bytes());
  const Index block_rows = wgmma          ? wgmma_block_rows
                           : tensor_cores ? backward_block_rows_bf16
                                          : backward_block_rows_scalar;
  const Index blocks = resident ? 1 : blocks_of(p, block_rows);
  p.stats = a.stats.as<double>();
  p.heads_first = heads_first(*runtime_, p);
  for_slices(*runtime_, p, a.q.dtype, [&](AttentionProblem x) {
    const Index heads = Index{x.batches} * x.heads;
    const Scratch rows = scratch<float>(resident ? 0 : 2 * heads * x.rows), partial = scratch<double>(a.stats ? heads * blocks * attention_stats : 0);
    x.row_delta = rows.as<float>(), x.row_factor = x.row_delta + heads * x.rows;
    if (a.stats) x.partial_stats = partial.as<double>();
    if (wgmma)
      attention_backward_wgmma(stream(), x);
    else if (resident)
      attention_backward_resident(stream(), x);
    else if (tensor_cores)
      attention_backward_bf16(stream(), x);
    else
      attention_backward_scalar(stream(), x, a.q.dtype);
    if (a.stats) merge_attention_stats(stream(), x, static_cast<std::int32_t>(blocks), true);
  });
  return true;
}

}  // namespace norma::cuda
