// Statistics of attention in linear form, where there is no matrix to measure: the quadratic kernels compute a few rows of it.
#include <algorithm>
#include <cmath>

#include "backends/cpu/attention_linear.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

constexpr int stats_slot = 11, out_slot = 12, keys_slot = 13;  // of scratch(); none of these is used by the quadratic kernels

/// The rows are cut into as many equal parts as there are samples; a sample is the rows in the middle of its part. Rows are
/// enough for a whole register tile. With up to samples * rows_each rows, all are taken and the estimates are exact.
constexpr Index samples = 8, rows_each = 6;

struct Sample {
  Index first, rows;
  double weight;  // rows that it stands for, over those it has
};
Sample sample(Index rows, Index number) {
  const Index begin = rows * number / samples, end = rows * (number + 1) / samples, taken = std::min(rows_each, end - begin);
  return {begin + (end - begin - taken) / 2, taken,
          taken ? static_cast<double>(end - begin) / static_cast<double>(taken) : 0};
}

View part(const View& x, int axis, Index first, Index count) {
  View y = x;
  y.layout.shape.set(axis, count);
  y.layout.offset = 0;
  y.data = static_cast<std::byte*>(x.data) + (first * x.layout.stride(axis)) * static_cast<Index>(size_of(x.dtype));
  return y;
}
template <class T>
View room(int slot, const Shape& shape) {
  return {scratch<T>(slot, shape.numel()), Layout(shape), dtype_of<T>()};
}
View room_like(DType dtype, int slot, const Shape& shape) {
  return dtype == DType::f32 ? room<float>(slot, shape) : dtype == DType::f64 ? room<double>(slot, shape) : room<bf16>(slot, shape);
}

/// What a sampled piece of the call is told: its rows as if they were all there are, the keys that they see, and a scale that
/// does not depend on how many keys the piece has.
struct Piece {
  Sample rows;
  Index keys;
  View mask;
  Piece(const Attention& a, const View& q, const View& k, Index number) : rows(sample(q.shape()[2], number)) {
    const Index all = k.shape()[2], shift = all - q.shape()[2];
    keys = a.causal ? std::clamp<Index>(rows.first + rows.rows + shift, 0, all) : all;
    if (a.key_mask) mask = part(*a.key_mask, 1, 0, keys);
  }
  bool empty() const { return rows.rows == 0 || keys <= 0; }
  void write(Attention& a, const View& stats, Index all_keys) const {
    a.form = AttentionForm::quadratic;
    a.stats = &stats;
    if (a.key_mask) a.key_mask = &mask;
    Scoring& s = a.scoring;
    const double n = static_cast<double>(all_keys);
    const double factor = s.scale == Scoring::Scale::inverse_keys ? 1 / n : s.scale == Scoring::Scale::inverse_sqrt_keys ? 1 / std::sqrt(n) : 1;
    if (s.scale == Scoring::Scale::inverse_keys || s.scale == Scoring::Scale::inverse_sqrt_keys) s.scale = Scoring::Scale::one;
    for (double& c : s.coefficient) c *= factor;
  }
};

bool is_extreme(AttentionStat s) {
  return s == AttentionStat::min || s == AttentionStat::max || s == AttentionStat::score_max;
}

/// Collects the samples of every head into the statistics [first, last] of `stats`.
class Estimate {
 public:
  Estimate(const View& stats, AttentionStat first, AttentionStat last)
      : to_(stats.as<double>()), heads_(stats.shape()[0] * stats.shape()[1]), first_(static_cast<int>(first)), last_(static_cast<int>(last)) {
    for (Index h = 0; h < heads_; ++h)
      for (int s = first_; s <= last_; ++s) to_[h * attention_stats + s] = nothing(static_cast<AttentionStat>(s));
  }
  void add(const View& sampled, const Sample& rows) {
    for (Index h = 0; h < heads_; ++h) {
      for (int s = first_; s <= last_; ++s) {
        const auto which = static_cast<AttentionStat>(s);
        const double x = sampled.as<double>()[h * attention_stats + s];
        double& y = to_[h * attention_stats + s];
        if (which == AttentionStat::min) y = std::min(y, x);
        else if (is_extreme(which)) y = std::max(y, x);
        else y += rows.weight * x;
      }
    }
  }

 private:
  static double nothing(AttentionStat s) {
    return s == AttentionStat::min ? HUGE_VAL : is_extreme(s) ? -HUGE_VAL : 0;
  }
  double* to_;
  Index heads_;
  int first_, last_;
};

/// How many pairs (row, column) are visible, and the spread of the samples' fro2 as the standard error of their sum.
void finish(const AttentionForward& a, const double* fro2) {
  const Index batch = a.q.shape()[0], heads = a.q.shape()[1], rows = a.q.shape()[2], keys = a.k.shape()[2];
  const double taken = static_cast<double>(std::min(rows, samples * rows_each)) / static_cast<double>(rows);
  for (Index b = 0; b < batch; ++b) {
    double entries = 0;
    for (Index j = 0; j < keys; ++j) {
      if (a.key_mask && !a.key_mask->as<std::uint8_t>()[b * a.key_mask->layout.stride(0) + j * a.key_mask->layout.stride(1)]) continue;
      entries += static_cast<double>(a.causal ? std::clamp<Index>(keys - j, 0, rows) : rows);  // rows that see column j
    }
    for (Index h = 0; h < heads; ++h) {
      const Index head = b * heads + h;
      double* to = a.stats->as<double>() + head * attention_stats;
      double mean = 0, spread = 0;
      for (Index n = 0; n < samples; ++n) mean += fro2[n * batch * heads + head] / samples;
      for (Index n = 0; n < samples; ++n) spread += std::pow(fro2[n * batch * heads + head] - mean, 2) / (samples - 1);
      to[static_cast<int>(AttentionStat::entries)] = entries;
      to[static_cast<int>(AttentionStat::entropy)] = std::nan("");
      to[static_cast<int>(AttentionStat::fro2_error)] = std::sqrt(samples * spread * (1 - taken));
    }
  }
}

}  // namespace

void sample_statistics(Backend& backend, const AttentionForward& a) {
  const Index heads = a.q.shape()[0] * a.q.shape()[1];
  Estimate estimate(*a.stats, AttentionStat::fro2, AttentionStat::fro2_error);
  const View both = room<double>(stats_slot, {1 + samples, heads, Index{attention_stats}});
  const View stats{both.data, Layout(a.stats->shape()), DType::f64};
  double* fro2 = both.as<double>() + heads * attention_stats;  // [samples, heads]
  for (Index n = 0; n < samples; ++n) {
    const Piece piece(a, a.q, a.k, n);
    for (Index h = 0; h < heads; ++h) fro2[n * heads + h] = 0;
    if (piece.empty()) continue;
    AttentionForward some = a;
    piece.write(some, stats, a.k.shape()[2]);
    some.row_lse = nullptr;
    some.q = part(a.q, 2, piece.rows.first, piece.rows.rows);
    some.k = part(a.k, 2, 0, piece.keys), some.v = part(a.v, 2, 0, piece.keys);
    some.out = room_like(a.q.dtype, out_slot, {a.q.shape()[0], a.q.shape()[1], piece.rows.rows, a.v.shape()[3]});
    if (!backend.attention(some)) fail("attention: {} declined the sampled rows of its linear form", backend.name());
    estimate.add(stats, piece.rows);
    for (Index h = 0; h < heads; ++h) fro2[n * heads + h] = piece.rows.weight * stats.as<double>()[h * attention_stats];
  }
  finish(a, fro2);
}

void sample_statistics(Backend& backend, const AttentionBackward& a) {
  const Index batch = a.q.shape()[0], heads = a.q.shape()[1], d = a.q.shape()[3], e = a.v.shape()[3];
  Estimate estimate(*a.stats, AttentionStat::grad_a2, AttentionStat::grad_s2);
  const View stats = room<double>(stats_slot, a.stats->shape());
  for (Index n = 0; n < samples; ++n) {
    const Piece piece(a, a.q, a.k, n);
    if (piece.empty()) continue;
    AttentionBackward some = a;
    piece.write(some, stats, a.k.shape()[2]);
    some.q = part(a.q, 2, piece.rows.first, piece.rows.rows), some.dout = part(a.dout, 2, piece.rows.first, piece.rows.rows);
    some.k = part(a.k, 2, 0, piece.keys), some.v = part(a.v, 2, 0, piece.keys);
    some.dq = room_like(a.q.dtype, out_slot, {batch, heads, piece.rows.rows, d});
    const View gradients = room_like(a.q.dtype, keys_slot, {batch, heads, piece.keys, d + e});  // of k and v, side by side
    some.dk = part(gradients, 3, 0, d), some.dv = part(gradients, 3, d, e);
    if (!backend.attention_backward(some)) fail("attention: {} declined the sampled rows of its linear form", backend.name());
    estimate.add(stats, piece.rows);
  }
}

}  // namespace norma::cpu
