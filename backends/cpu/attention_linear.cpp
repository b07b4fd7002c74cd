#include "backends/cpu/attention_linear.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "backends/common/views.h"
#include "backends/cpu/attention_linear_kernels.h"
#include "backends/cpu/attention_sampled.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/packed_products.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

/// ||A||_F is exact up to so many monomials: its state has their number squared.
constexpr Index most_for_norm = 160;
bool exact_norm(const Scoring& s, Index d) { return linear_features(s, d) <= most_for_norm; }

/// What multiplies the matrices of the quadratic form.
enum class Matrices { by_multiply_adds, f32_on_tiles, bf16_on_tiles, bf16_by_pairs };

/// Where forward and backward together were measured to take less time than the quadratic form (norma_bench_attention, AVX2, AVX-512-BF16 and AMX,
/// d 8 to 128: docs/linear-attention.md), with the fit rounded up. Monomials of higher degree are products, which cost extra. Matrices on AMX's tiles
/// are quicker, those of bf16 by far, and so are bf16 by pairs, so that the linear form, which is f32 by multiply-adds, pays from longer sequences on.
bool linear_is_cheaper(const Scoring& s, Index features, Index rows, Index keys, bool causal, Matrices matrices) {
  const auto n = 2.0 * static_cast<double>(rows) * static_cast<double>(keys) / static_cast<double>(rows + keys);
  const auto size = static_cast<double>(features);
  if (matrices == Matrices::bf16_on_tiles)
    return n >= (s.degree() == 1 ? (causal ? 12 * size + 700 : 6 * size + 32) : causal ? 14.5 * size + 64 : 5 * size + 128);
  if (matrices == Matrices::bf16_by_pairs)
    return n >= (s.degree() == 1 ? (causal ? 4.8 * size + 265 : 1.9 * size + 32) : causal ? 4.6 * size + 500 : 2.4 * size + 180);
  if (matrices == Matrices::f32_on_tiles && causal)
    return n >= (s.degree() == 1 ? std::max(260.0, 4.2 * size) : std::max(3 * size + 480, 5.5 * size - 800));
  if (s.degree() == 1) return n >= (causal ? size + 256 : 1.5 * size + 64);
  return n >= (causal ? 3 * size + 320 : 1.5 * size + 192);
}

/// Heads with their pieces are at least so many tasks, where sequences are long enough; and where heads are very few, some in any case: under a
/// causal mask each piece sums what is before it a second time.
constexpr Index wanted_tasks = 16, keys_per_piece = 2048, piece_step = 128;
Index pieces_of(Index keys, Index heads, bool causal) {
  const auto pieces = [&](Index tasks, Index least) { return std::min((tasks + heads - 1) / heads, keys / least); };
  return std::clamp<Index>(std::max(pieces(wanted_tasks, keys_per_piece), pieces(causal ? 2 : 4, 512)), 1, wanted_tasks);
}

/// The weight of each monomial, in the order of kernels/monomials.h: coefficient, scale^p, and p! / prod(multiplicities!). Grown
/// degree by degree: one more factor x_i, which then occurs `run` times, multiplies the last by p / run.
class Weights {
 public:
  const std::vector<double>& of(const Scoring& s, double scale, Index d) {
    if (scoring_ == s && scale_ == scale && d_ == d) return all_;  // a step asks for the same again and again
    scoring_ = s, scale_ = scale, d_ = d;
    all_.clear();
    struct Term {
      Index first;
      int run;
      double weight;
    };
    std::vector<Term> last{{d, 0, 1}}, next;
    for (int p = 0; p <= s.degree(); ++p) {
      if (p > 0) {
        next.clear();
        std::size_t begin = 0;  // of the terms in x_i, x_{i+1}, ...
        for (Index i = 0; i < d; ++i) {
          while (begin < last.size() && last[begin].first < i) ++begin;
          for (std::size_t t = begin; t < last.size(); ++t) {
            const int run = last[t].first == i ? last[t].run + 1 : 1;
            next.push_back({i, run, last[t].weight * p / run});
          }
        }
        last.swap(next);
      }
      const double c = s.coefficient[static_cast<std::size_t>(p)];
      if (c == 0) continue;
      for (const Term& t : last) all_.push_back(c * std::pow(scale, p) * t.weight);
    }
    return all_;
  }

 private:
  Scoring scoring_;
  double scale_ = 0;
  Index d_ = -1;
  std::vector<double> all_;
};

/// One call: what all heads share, and the cut into tasks.
template <class T>
class Call {
 public:
  Call(const Attention& a, const View& q, const View& k, const View& v, const LinearKernels<T>& kernels)
      : a_(a), q_(q), k_(k), v_(v), kernels_(kernels) {
    LinearHead<T>& h = all;
    h.q_row = q.layout.stride(2), h.k_row = k.layout.stride(2), h.v_row = v.layout.stride(2);
    h.rows = q.shape()[2], h.keys = k.shape()[2], h.d = q.shape()[3], h.e = v.shape()[3];
    h.scale = a.scale, h.degree = a.scoring.degree(), h.causal = a.causal;
    for (int p = 0; p < polynomial_terms; ++p) h.coefficient[p] = a.scoring.coefficient[static_cast<std::size_t>(p)];
    h.features = linear_features(a.scoring, h.d);
    T* weights = scratch<T>(Slot::linear_weights, h.features);
    thread_local Weights known;
    for (std::size_t i = 0; double w : known.of(a.scoring, a.scale, h.d)) weights[i++] = static_cast<T>(w);
    h.weights = weights;
    h.factor = 1 / a.scoring.divisor(static_cast<double>(h.keys)), h.row_scale = a.scoring.row_scale();
    if (a.key_mask) count_keys();
    heads = q.shape()[0] * q.shape()[1];
    pieces = pieces_of(h.keys, heads, h.causal);
    state_size = kernels.state_size(h);
    work_size = kernels.work_bytes(h, 0);
  }

  LinearHead<T> head(Index index) const {
    LinearHead<T> h = all;
    const Index b = index / q_.shape()[1], n = index % q_.shape()[1];
    h.q = head_of<T>(q_, b, n), h.k = head_of<T>(k_, b, n), h.v = head_of<T>(v_, b, n);
    if (a_.key_mask) {
      h.key_mask = a_.key_mask.as<std::uint8_t>() + b * a_.key_mask.layout.stride(0);
      h.key_mask_step = a_.key_mask.layout.stride(1);
      h.before = before_ + b * (all.keys + 1);
    }
    return h;
  }
  /// Piece number `piece` of `count` rows or keys, cut at multiples of piece_step.
  void cut(LinearHead<T>& h, Index piece, Index count) const {
    const Index step = (count + pieces * piece_step - 1) / (pieces * piece_step) * piece_step;
    h.begin = std::min(count, piece * step), h.end = std::min(count, h.begin + step);
  }
  T* state_of_task(Slot slot) const { return scratch<T>(slot, state_size); }
  void give_work(LinearHead<T>& h) const { h.work = scratch(Slot::linear_work, static_cast<std::size_t>(work_size)); }

  /// body(head, state): for every piece of every head, with the states of all of them in `states`.
  template <class Body>
  void each(T* states, bool rows, Body body) const {
    parallel_tasks(heads * pieces, [&](Index task) {
      LinearHead<T> h = bound(task / pieces);
      cut(h, task % pieces, rows ? all.rows : all.keys);
      give_work(h);
      body(h, states + task * state_size);
    });
  }
  /// The states of a head's pieces become, all of them, their sum.
  void add_up(T* states) const {
    parallel_tasks(heads, [&](Index i) {
      T* first = states + i * pieces * state_size;
      for (Index p = 1; p < pieces; ++p)
        for (Index j = 0; j < state_size; ++j) first[j] += first[p * state_size + j];
      for (Index p = 1; p < pieces; ++p) std::copy_n(first, state_size, first + p * state_size);
    });
  }
  /// Each becomes the sum of those before it, or after it.
  void add_before(T* states, bool after) const {
    parallel_tasks(heads, [&](Index i) {
      for (Index j = 0; j < state_size; ++j) {
        T sum = 0;
        for (Index p = 0; p < pieces; ++p) {
          T& x = states[(i * pieces + (after ? pieces - 1 - p : p)) * state_size + j];
          const T own = x;
          x = sum;
          sum += own;
        }
      }
    });
  }

  std::function<void(LinearHead<T>&, Index b, Index h)> bind;  // sets the pointers of outputs and gradients
  LinearHead<T> all{};
  Index heads, pieces, state_size, work_size;
  LinearHead<T> bound(Index index) const {
    LinearHead<T> h = head(index);
    bind(h, index / q_.shape()[1], index % q_.shape()[1]);
    return h;
  }

 private:
  void count_keys() {
    const View& mask = a_.key_mask;
    const Index batch = mask.shape()[0], keys = mask.shape()[1];
    before_ = scratch<std::int32_t>(Slot::linear_key_counts, batch * (keys + 1));
    for (Index b = 0; b < batch; ++b) {
      std::int32_t* to = before_ + b * (keys + 1);
      to[0] = 0;
      for (Index j = 0; j < keys; ++j)
        to[j + 1] = to[j] + (mask.as<std::uint8_t>()[b * mask.layout.stride(0) + j * mask.layout.stride(1)] != 0);
    }
  }

  const Attention& a_;
  const View &q_, &k_, &v_;
  const LinearKernels<T>& kernels_;
  std::int32_t* before_ = nullptr;
};

template <class T>
void forward(const AttentionForward& a, const LinearKernels<T>& kernels) {
  Call<T> call(a, a.q, a.k, a.v, kernels);
  call.all.out_row = a.out.layout.stride(2);
  call.bind = [&](LinearHead<T>& h, Index b, Index n) { h.out = head_of<T>(a.out, b, n); };
  if (call.pieces == 1) {
    parallel_tasks(call.heads, [&](Index i) {
      LinearHead<T> h = call.bound(i);
      call.give_work(h);
      T* s = call.state_of_task(Slot::linear_mirror);
      h.begin = 0, h.end = h.keys;
      if (a.causal) {
        std::fill_n(s, call.state_size, T{0});
        return kernels.forward_causal(h, s);
      }
      kernels.sum_keys(h, s);
      h.end = h.rows;
      kernels.forward_rows(h, s);
    });
  } else {
    T* states = scratch<T>(Slot::linear_states, call.heads * call.pieces * call.state_size);
    call.each(states, false, [&](const LinearHead<T>& h, T* s) { kernels.sum_keys(h, s); });
    a.causal ? call.add_before(states, false) : call.add_up(states);
    call.each(states, !a.causal, [&](const LinearHead<T>& h, T* s) {
      a.causal ? kernels.forward_causal(h, s) : kernels.forward_rows(h, s);
    });
  }
  if (!a.stats) return;
  const bool norm = exact_norm(a.scoring, call.all.d);
  const Index work = std::max(kernels.work_bytes(call.all, 1 + (norm ? call.all.features : 0)), kernels.sample_bytes(call.all));
  parallel_tasks(call.heads, [&](Index i) {
    const RowSample sample(call.all.rows, i);
    LinearHead<T> h = call.head(i);
    h.work = scratch(Slot::linear_work, static_cast<std::size_t>(work));
    double* to = a.stats.as<double>() + i * attention_stats;
    SampledSums sampled;
    kernels.sample(h, sample.rows(), sampled);
    const LinearSums sums = kernels.measure(h, norm);
    sample.estimate(sampled, sums.entries, to);
    const auto set = [&](AttentionStat s, double value) { to[static_cast<int>(s)] = value; };
    set(AttentionStat::row_sum, sums.row_sum), set(AttentionStat::row_sum2, sums.row_sum2);
    if (norm) set(AttentionStat::fro2, sums.fro2), set(AttentionStat::fro2_error, sample.no_error());
  });
}

/// The statistics of the gradients, from q, k, v and dout.
template <class T>
void measure_gradients(const AttentionBackward& a, const Call<T>& call, const LinearKernels<T>& kernels) {
  const Index work = kernels.sample_bytes(call.all);
  parallel_tasks(call.heads, [&](Index i) {
    LinearHead<T> h = call.bound(i);
    const RowSample sample(h.rows, i, longest_rows(h.dout, h.rows, h.dout_row, h.e, SampledRows::longest));
    h.work = scratch(Slot::linear_work, static_cast<std::size_t>(work));
    SampledSums sampled;
    kernels.sample_gradients(h, sample.rows(), sampled);
    sample.estimate_gradients(sampled, a.stats.as<double>() + i * attention_stats);
  });
}

template <class T>
void backward(const AttentionBackward& a, const LinearKernels<T>& kernels) {
  Call<T> call(a, a.q, a.k, a.v, kernels);
  call.all.dout_row = a.dout.layout.stride(2);
  call.all.dq_row = a.dq.layout.stride(2), call.all.dk_row = a.dk.layout.stride(2), call.all.dv_row = a.dv.layout.stride(2);
  call.bind = [&](LinearHead<T>& h, Index b, Index n) {
    h.dout = head_of<T>(a.dout, b, n);
    h.dq = head_of<T>(a.dq, b, n), h.dk = head_of<T>(a.dk, b, n), h.dv = head_of<T>(a.dv, b, n);
  };
  if (a.stats) measure_gradients(a, call, kernels);
  if (call.pieces == 1) {
    parallel_tasks(call.heads, [&](Index i) {
      LinearHead<T> h = call.bound(i);
      call.give_work(h);
      T *s = call.state_of_task(Slot::linear_mirror), *u = call.state_of_task(Slot::linear_states);
      h.begin = 0, h.end = h.keys;
      if (a.causal) {
        std::fill_n(s, call.state_size, T{0});
        kernels.backward_causal_rows(h, s);
        std::fill_n(u, call.state_size, T{0});
        return kernels.backward_causal_keys(h, u);
      }
      kernels.sum_keys(h, s);
      h.end = h.rows;
      kernels.backward_rows(h, s, u);
      h.end = h.keys;
      kernels.backward_keys(h, u);
    });
    return;
  }
  const Index all = call.heads * call.pieces * call.state_size;
  T *s = scratch<T>(Slot::linear_states, 2 * all), *u = s + all;
  call.each(s, false, [&](const LinearHead<T>& h, T* to) { kernels.sum_keys(h, to); });
  if (a.causal) {
    call.each(u, false, [&](const LinearHead<T>& h, T* to) { kernels.sum_rows(h, to); });
    call.add_before(s, false), call.add_before(u, true);
    call.each(s, false, [&](const LinearHead<T>& h, T* from) { kernels.backward_causal_rows(h, from); });
    call.each(u, false, [&](const LinearHead<T>& h, T* from) { kernels.backward_causal_keys(h, from); });
    return;
  }
  call.add_up(s);
  call.each(s, true, [&](const LinearHead<T>& h, T* from) { kernels.backward_rows(h, from, from + (u - s)); });
  call.add_up(u);
  call.each(u, false, [&](const LinearHead<T>& h, T* from) { kernels.backward_keys(h, from); });
}

/// bf16 is a storage type: the call's tensors as floats, in scratch memory.
class Widened {
 public:
  explicit Widened(std::initializer_list<View*> views) {
    std::copy(views.begin(), views.end(), views_.begin());
    Index size = 0;
    for (const View* x : views) size += x->numel();
    float* next = scratch<float>(Slot::linear_wide, size);
    for (View* x : views) {
      *x = {next, Layout(x->shape()), DType::f32};
      next += x->numel();
    }
  }
  /// The values of `from` into the first views.
  void read(std::initializer_list<const View*> from) const {
    auto to = views_.begin();
    for (const View* x : from) {
      const View& y = **to++;
      each_head(*x, [&](Index b, Index h) {
        widen_rows(x->shape()[2], x->shape()[3], head_of<bf16>(*x, b, h), x->layout.stride(2), head_of<float>(y, b, h));
      });
    }
  }
  static void write(const View& from, const View& to) {
    each_head(to, [&](Index b, Index h) {
      narrow_rows(to.shape()[2], to.shape()[3], head_of<float>(from, b, h), head_of<bf16>(to, b, h), to.layout.stride(2));
    });
  }

 private:
  template <class Body>
  static void each_head(const View& x, Body body) {
    const Index heads = x.shape()[1];
    parallel_tasks(x.shape()[0] * heads, [&](Index i) { body(i / heads, i % heads); });
  }
  std::array<View*, 7> views_{};
};

}  // namespace

bool linear_form(const Attention& a, const View& q, const View& k) {
  const Index features = linear_features(a.scoring, q.shape()[3]);
  if (a.form == AttentionForm::quadratic || features == 0 || a.dropout != 0) return false;
  if (a.form == AttentionForm::linear) return true;
  const bool bf16 = q.dtype == DType::bf16;
  const PackedProducts* products = q.dtype == DType::f64 ? nullptr : own_products(bf16);
  const Matrices matrices = !products        ? Matrices::by_multiply_adds
                            : !products->amx ? Matrices::bf16_by_pairs
                            : bf16           ? Matrices::bf16_on_tiles
                                             : Matrices::f32_on_tiles;
  return linear_is_cheaper(a.scoring, features, q.shape()[2], k.shape()[2], a.causal, matrices);
}

void attention_linear(const AttentionForward& a) {
  const AttentionLinearKernels& kernels = NORMA_KERNELS(attention_linear_kernels);
  if (a.q.dtype == DType::f64) return forward<double>(a, kernels.f64);
  if (a.q.dtype == DType::f32) return forward<float>(a, kernels.f32);
  AttentionForward wide = a;
  Widened views({&wide.q, &wide.k, &wide.v, &wide.out});
  views.read({&a.q, &a.k, &a.v});
  forward<float>(wide, kernels.f32);
  Widened::write(wide.out, a.out);
}
void attention_linear_backward(const AttentionBackward& a) {
  const AttentionLinearKernels& kernels = NORMA_KERNELS(attention_linear_kernels);
  if (a.q.dtype == DType::f64) return backward<double>(a, kernels.f64);
  if (a.q.dtype == DType::f32) return backward<float>(a, kernels.f32);
  AttentionBackward wide = a;
  Widened views({&wide.q, &wide.k, &wide.v, &wide.dout, &wide.dq, &wide.dk, &wide.dv});
  views.read({&a.q, &a.k, &a.v, &a.dout});
  backward<float>(wide, kernels.f32);
  Widened::write(wide.dq, a.dq), Widened::write(wide.dk, a.dk), Widened::write(wide.dv, a.dv);
}

}  // namespace norma::cpu
