// The verbs attention and attention_backward: checks whether the fused kernels cover the case, and runs them head by head.
#include <algorithm>
#include <atomic>
#include <optional>

#include "backends/common/attention_stats.h"
#include "backends/common/draws.h"
#include "backends/common/views.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/attention_linear.h"
#include "backends/cpu/attention_widened.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/packed_products.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

std::atomic<int> forced_packed{-1};  // 1: everywhere, 0: nowhere

/// Into how many pieces the rows of a head, or its keys in the backward pass, are cut: one each where heads are many. A piece of rows packs all
/// keys, a piece of keys has dQ's sums for itself, so that pieces are long unless heads are very few.
Index pieces_of(Index size, Index heads) {
  const Index least = heads < 8 ? 128 : 512;
  return std::clamp<Index>((16 + heads - 1) / std::max<Index>(1, heads), 1, std::max<Index>(1, size / least));
}
/// Of keys: sums of dQ take up to 16 MiB, or twice what dQ takes.
Index pieces_of_keys(Index keys, Index heads, Index dq_bytes) {
  return std::min(pieces_of(keys, heads), std::max<Index>(2, (Index{16} << 20) / std::max<Index>(1, dq_bytes)));
}

/// The function of the scores as the kernels have it; none where they do not, and the composition runs.
std::optional<Phi> phi_of(const Scoring& s) {
  switch (s.kind) {
    case Scoring::Kind::softmax: return Phi::softmax;
    case Scoring::Kind::sigmoid: return Phi::sigmoid;
    case Scoring::Kind::relu: return Phi::relu;
    case Scoring::Kind::polynomial: {
      const bool power = s.monomial() && s.degree() >= 1 && s.degree() <= 4 && !(s.normalize && s.degree() % 2);
      return power ? static_cast<Phi>(static_cast<int>(Phi::power1) + s.degree() - 1) : Phi::polynomial;
    }
    default: return std::nullopt;
  }
}

/// The dtype, layouts and options the kernels are written for.
bool covered(const Attention& a, std::initializer_list<const View*> tensors) {
  for (const View* x : tensors) {
    if (x->numel() == 0 || !heads_have_dense_rows(*x)) return false;
    if (x->dtype != (*tensors.begin())->dtype || !is_floating(x->dtype)) return false;
  }
  return phi_of(a.scoring) && options_fit(a);
}

/// Products of packed operands, by AMX or pairs, where they are and pay: packing an element of the scores costs as much as some 20 multiply-adds of
/// f32, less of bf16, short sums and few columns leave tiles half empty, and few rows (a class token's, of a text that is written token by token)
/// do not make up for packing the keys.
const PackedProducts* products_for(const Attention& a, const View& q, const View& k, const View& v, bool backward) {
  const Index rows = q.shape()[2], keys = k.shape()[2], seen = a.causal ? keys / 2 : keys, width = k.shape()[3] + v.shape()[3];
  const bool pays = k.dtype == DType::bf16 ? (rows >= 8 || !backward) && (width >= 64 ? seen >= 24 : width >= 32 && seen >= 96)
                                           : rows >= 64 && seen >= (a.causal ? 192 : 128) && width >= 64 && seen * width >= 16384;
  const int forced = forced_packed;
  return (forced < 0 ? pays : forced == 1) ? own_products(k.dtype == DType::bf16) : nullptr;
}

/// Everything that is the same for all heads, into one of zeros.
template <class T, class Head>
void fill_shared(const Attention& a, const View& q, const View& k, const View& v, Head& head) {
  head.q_row = q.layout.stride(2);
  head.k_row = k.layout.stride(2);
  head.v_row = v.layout.stride(2);
  head.rows = q.shape()[2];
  head.keys = k.shape()[2];
  head.d = q.shape()[3];
  head.e = v.shape()[3];
  head.scale = a.scale;

  const Scoring& s = a.scoring;
  const auto keys = static_cast<double>(head.keys);
  head.factor = 1;
  head.degree = s.degree();
  for (int p = 0; p < polynomial_terms; ++p) head.coefficient[p] = s.coefficient[static_cast<std::size_t>(p)];
  head.normalize = s.normalize || s.kind == Scoring::Kind::softmax;
  head.bias = s.sigmoid_bias(keys);
  head.phi = *phi_of(s);
  if (head.phi >= Phi::power1 && head.phi <= Phi::power4 && sizeof(T) == 4) head.factor = head.coefficient[s.degree()];
  if (s.kind != Scoring::Kind::softmax) head.factor /= s.divisor(keys), head.row_scale = s.row_scale();
  head.causal = a.causal;
  head.drop = a.dropout > 0;
  head.drop_below = static_cast<std::uint32_t>(std::min<std::uint64_t>(drop_threshold(a.dropout), 0xffff'ffff));
  head.keep_scale = keep_scale(a.dropout);
  head.seed = a.stream.seed;
  head.stream = a.stream.stream;
}

/// The parts that differ between heads.
template <class Stored, class Head>
void fill_head(const Attention& a, const View& q, const View& k, const View& v, Index b, Index h, Head& head) {
  head.q = head_of<Stored>(q, b, h);
  head.k = head_of<Stored>(k, b, h);
  head.v = head_of<Stored>(v, b, h);
  head.first_index = static_cast<std::uint64_t>((b * q.shape()[1] + h) * head.rows * head.keys);
  if (a.key_mask) {
    head.key_mask = a.key_mask.as<std::uint8_t>() + b * a.key_mask.layout.stride(0);
    head.key_mask_step = a.key_mask.layout.stride(1);
  }
}

/// What the head behind (b, h) reads of x.
RowsAhead rows_ahead(const View& x, Index b, Index h) {
  const auto size = static_cast<Index>(size_of(x.dtype));
  if (++h == x.shape()[1]) h = 0, ++b;
  if (b == x.shape()[0]) return {};
  return {static_cast<const char*>(x.data) + size * (b * x.layout.stride(0) + h * x.layout.stride(1)), size * x.layout.stride(2),
          x.shape()[2], (size * x.shape()[3] + 63) / 64};
}
template <class Head>
void look_ahead(std::initializer_list<const View*> tensors, Index b, Index h, Head& head) {
  for (const View* x : tensors) head.ahead[head.ahead_count++] = rows_ahead(*x, b, h);
}

/// The statistics of a head from those of its pieces, in their order.
void merge(const double* pieces, Index count, double* to) {
  std::copy_n(pieces, attention_stats, to);
  for (Index i = 1; i < count; ++i)
    for (int s = 0; s < attention_stats; ++s)
      to[s] = merged(static_cast<AttentionStat>(s), pieces[i * attention_stats + s], to[s]);
}

template <class T, class Stored>
void forward(const AttentionForward& a, const AttentionKernel<AttentionHeadForward<T, Stored>>& kernel, const PackedProducts* packed) {
  AttentionHeadForward<T, Stored> shared{};
  fill_shared<T>(a, a.q, a.k, a.v, shared);
  shared.packed = packed;
  shared.out_row = a.out.layout.stride(2);
  const Index heads = a.q.shape()[1], count = a.q.shape()[0] * heads;
  const Index pieces = pieces_of(shared.rows, count);
  double* stats = a.stats && pieces > 1 ? scratch<double>(Slot::attention_stat_parts, count * pieces * attention_stats) : a.stats.as<double>();
  parallel_tasks(count * pieces, [&](Index task) {
    AttentionHeadForward<T, Stored> head = shared;
    const Index index = task / pieces, piece = task % pieces, b = index / heads, h = index % heads;
    fill_head<Stored>(a, a.q, a.k, a.v, b, h, head);
    head.row_begin = head.rows * piece / pieces;
    head.row_end = head.rows * (piece + 1) / pieces;
    head.out = head_of<Stored>(a.out, b, h);
    if (a.row_lse) {
      head.lse = head_of<T>(a.row_lse, b, h);
      head.lse_step = a.row_lse.layout.stride(2);
    }
    if (stats) head.stats = stats + task * attention_stats;
    if (head.packed && pieces == 1) look_ahead({&a.q, &a.k, &a.v}, b, h, head);
    if constexpr (std::is_same_v<Stored, float>) {
      if (a.q.dtype == DType::bf16) return run_widened(a, b, h, head, kernel);
    }
    run(kernel, head);
  });
  if (stats && pieces > 1)
    for (Index i = 0; i < count; ++i)
      merge(stats + i * pieces * attention_stats, pieces, a.stats.as<double>() + i * attention_stats);
}

/// dq = the sum of its pieces in their order: parts[head][piece][rows, d].
template <class T>
void add_parts(const View& dq, Index pieces, const T* parts) {
  const GemmKernels& kernels = NORMA_KERNELS(gemm_kernels);
  const Index heads = dq.shape()[1], rows = dq.shape()[2], d = dq.shape()[3];
  parallel_for(dq.shape()[0] * heads * rows, std::max<Index>(1, task_elements / (d * pieces)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index head = i / rows, row = i % rows, to = row * dq.layout.stride(2);
      const T* from = parts + (head * pieces * rows + row) * d;
      if constexpr (std::is_same_v<T, double>) {
        kernels.f64.combine(pieces, d, from, rows * d, head_of<T>(dq, head / heads, head % heads) + to);
      } else if (dq.dtype == DType::f32) {
        kernels.f32.combine(pieces, d, from, rows * d, head_of<T>(dq, head / heads, head % heads) + to);
      } else {
        T* sums = scratch<T>(Slot::attention_wide, d);
        kernels.f32.combine(pieces, d, from, rows * d, sums);
        narrow_rows(1, d, sums, head_of<bf16>(dq, head / heads, head % heads) + to, d);
      }
    }
  });
}

template <class T, class Stored>
void backward(const AttentionBackward& a, const AttentionKernel<AttentionHeadBackward<T, Stored>>& kernel, const PackedProducts* packed) {
  AttentionHeadBackward<T, Stored> shared{};
  fill_shared<T>(a, a.q, a.k, a.v, shared);
  shared.packed = packed;
  shared.dout_row = a.dout.layout.stride(2);
  shared.dq_row = a.dq.layout.stride(2);
  shared.dk_row = a.dk.layout.stride(2);
  shared.dv_row = a.dv.layout.stride(2);
  if (shared.normalize) shared.out_row = a.out.layout.stride(2), shared.rounded_out = a.q.dtype == DType::bf16;
  if (shared.phi == Phi::softmax) shared.lse_step = a.row_lse.layout.stride(2);
  const Index heads = a.q.shape()[1], count = a.q.shape()[0] * heads, part = shared.rows * shared.d;
  const bool whole_rows = shared.normalize && (shared.phi != Phi::softmax || (shared.rounded_out && shared.keys <= whole_row_keys));
  const Index pieces = whole_rows ? 1 : pieces_of_keys(shared.keys, count, count * part * static_cast<Index>(sizeof(T)));
  T* parts = pieces > 1 ? scratch<T>(Slot::attention_dq_parts, count * pieces * part) : nullptr;
  double* stats = a.stats && pieces > 1 ? scratch<double>(Slot::attention_stat_parts, count * pieces * attention_stats) : a.stats.as<double>();
  parallel_tasks(count * pieces, [&](Index task) {
    AttentionHeadBackward<T, Stored> head = shared;
    const Index index = task / pieces, piece = task % pieces, b = index / heads, h = index % heads;
    fill_head<Stored>(a, a.q, a.k, a.v, b, h, head);
    head.key_begin = head.keys * piece / pieces;
    head.key_end = head.keys * (piece + 1) / pieces;
    if (parts) head.dq_part = parts + task * part;
    head.dout = head_of<Stored>(a.dout, b, h);
    if (shared.normalize) head.out = head_of<Stored>(a.out, b, h);
    if (shared.phi == Phi::softmax) head.lse = head_of<T>(a.row_lse, b, h);
    head.dq = head_of<Stored>(a.dq, b, h);
    head.dk = head_of<Stored>(a.dk, b, h);
    head.dv = head_of<Stored>(a.dv, b, h);
    if (stats) head.stats = stats + task * attention_stats;
    if (head.packed && pieces == 1) look_ahead({&a.q, &a.k, &a.v, &a.dout}, b, h, head);
    if (head.packed && pieces == 1 && head.normalize && !head.rounded_out) look_ahead({&a.out}, b, h, head);
    if constexpr (std::is_same_v<Stored, float>) {
      if (a.q.dtype == DType::bf16) return run_widened(a, b, h, head, kernel);
    }
    run(kernel, head);
  });
  if (!parts) return;
  add_parts(a.dq, pieces, parts);
  if (stats)
    for (Index i = 0; i < count; ++i)
      for (const AttentionStat s : {AttentionStat::grad_a2, AttentionStat::grad_s2}) {
        double& sum = a.stats.as<double>()[i * attention_stats + static_cast<Index>(s)] = 0;
        for (Index piece = 0; piece < pieces; ++piece) sum += stats[(i * pieces + piece) * attention_stats + static_cast<Index>(s)];
      }
}

}  // namespace

const PackedProducts* own_products(bool bf16) {
  const PackedProducts* products = gemm_provider() == GemmProvider::own ? NORMA_BF16_KERNELS(packed_products) : nullptr;
  if (!products || products->amx) return products;
  return bf16 && (forced_packed == 1 || bf16_form() == Bf16Form::pairs) ? products : nullptr;
}
ForcePacked::ForcePacked(bool everywhere) { forced_packed = everywhere; }
ForcePacked::~ForcePacked() { forced_packed = -1; }

bool CpuBackend::attention(const AttentionForward& a) {
  if (!covered(a, {&a.q, &a.k, &a.v, &a.out})) return false;
  if (!all_are(wide_of(a.q.dtype), a.row_lse)) return false;
  if (linear_form(a, a.q, a.k)) return attention_linear(a), true;
  const AttentionForwardKernels& kernels = NORMA_KERNELS(attention_forward_kernels);
  const PackedProducts* packed = products_for(a, a.q, a.k, a.v, false);
  if (a.q.dtype == DType::f64)
    forward(a, kernels.f64, nullptr);
  else if (a.q.dtype == DType::bf16 && packed)
    forward(a, kernels.bf16, packed);
  else
    forward(a, kernels.f32, packed);
  return true;
}

bool CpuBackend::attention_backward(const AttentionBackward& a) {
  if (!covered(a, {&a.q, &a.k, &a.v, &a.dout, &a.dq, &a.dk, &a.dv})) return false;
  if (!saved_rows_fit(a)) return false;
  if (linear_form(a, a.q, a.k)) return attention_linear_backward(a), true;
  const AttentionBackwardKernels& kernels = NORMA_KERNELS(attention_backward_kernels);
  const PackedProducts* packed = products_for(a, a.q, a.k, a.v, true);
  if (a.q.dtype == DType::f64)
    backward(a, kernels.f64, nullptr);
  else if (a.q.dtype == DType::bf16 && packed)
    backward(a, kernels.bf16, packed);
  else
    backward(a, kernels.f32, packed);
  return true;
}

}  // namespace norma::cpu
