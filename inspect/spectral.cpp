// Block power iteration through the attention op: one forward pass gives A V, its derivative A^T (A V).
#include "inspect/spectral.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"

namespace norma::inspect {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// The vectors of one head: column c of a dense [length, count] row-major array.
struct Block {
  double* data;
  Index length;
  int count;
  double& at(Index i, int c) const { return data[i * count + c]; }
  double dot(int a, int b) const {
    double sum = 0;
    for (Index i = 0; i < length; ++i) sum += at(i, a) * at(i, b);
    return sum;
  }
  void scale(int c, double by) const {
    for (Index i = 0; i < length; ++i) at(i, c) *= by;
  }
  void subtract(int c, double times, int other) const {
    for (Index i = 0; i < length; ++i) at(i, c) -= times * at(i, other);
  }
  void draw(int c, std::uint64_t stream) const {
    const RandomStream random{0x5bec, stream};
    for (Index i = 0; i < length; ++i) at(i, c) = uniform_from(random.word(static_cast<std::uint64_t>(i))) - 0.5;
  }
  /// Gram-Schmidt, twice (Kahan: twice is enough). A column that lies in the span of those before it is drawn anew, so
  /// that a matrix of low rank does not starve the block; zero where the space has no more room.
  void orthonormalize() const {
    for (int c = 0; c < count; ++c) {
      for (int attempt = 0;; ++attempt) {
        const double before = std::sqrt(dot(c, c));
        for (int pass = 0; pass < 2; ++pass)
          for (int other = 0; other < c; ++other) subtract(c, dot(c, other), other);
        const double after = std::sqrt(dot(c, c));
        if (before > 0 && after > 1e-10 * before) {
          scale(c, 1 / after);
          break;
        }
        if (attempt == 2) {
          scale(c, 0);
          break;
        }
        draw(c, stream_id(static_cast<std::uint64_t>(c), static_cast<std::uint64_t>(attempt) + 1));
      }
    }
  }
};

/// The largest eigenvalue of a symmetric n x n matrix and its unit vector, by cyclic Jacobi rotations.
double largest_eigenpair(std::vector<double>& g, int n, std::vector<double>& vector) {
  const auto at = [n](int r, int c) { return static_cast<std::size_t>(r * n + c); };
  std::vector<double> v(static_cast<std::size_t>(n * n), 0.0);
  for (int i = 0; i < n; ++i) v[at(i, i)] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, all = 0;
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < n; ++c) (r == c ? all : off) += g[at(r, c)] * g[at(r, c)];
    if (!(off > 1e-32 * (all + off))) break;
    for (int p = 0; p < n; ++p)
      for (int q = p + 1; q < n; ++q) {
        if (g[at(p, q)] == 0) continue;
        const double theta = (g[at(q, q)] - g[at(p, p)]) / (2 * g[at(p, q)]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int i = 0; i < n; ++i) {
          const double a = g[at(i, p)], b = g[at(i, q)];
          g[at(i, p)] = c * a - s * b, g[at(i, q)] = s * a + c * b;
        }
        for (int i = 0; i < n; ++i) {
          const double a = g[at(p, i)], b = g[at(q, i)];
          g[at(p, i)] = c * a - s * b, g[at(q, i)] = s * a + c * b;
          const double x = v[at(i, p)], y = v[at(i, q)];
          v[at(i, p)] = c * x - s * y, v[at(i, q)] = s * x + c * y;
        }
      }
  }
  int best = 0;
  for (int i = 1; i < n; ++i)
    if (g[at(i, i)] > g[at(best, best)]) best = i;
  vector.resize(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) vector[static_cast<std::size_t>(i)] = v[at(i, best)];
  return g[at(best, best)];
}

/// What one iteration says of one head: V orthonormal, W = A V, Z = A^T W.
struct Ritz {
  double norm, residual;
};
Ritz rayleigh_ritz(const Block& v, const Block& w, const Block& z) {
  const int n = v.count;
  std::vector<double> gram(static_cast<std::size_t>(n * n)), c;
  for (int a = 0; a < n; ++a)
    for (int b = a; b < n; ++b)
      gram[static_cast<std::size_t>(a * n + b)] = gram[static_cast<std::size_t>(b * n + a)] = w.dot(a, b);
  for (double g : gram)
    if (!std::isfinite(g)) return {nan, nan};
  const double square = largest_eigenpair(gram, n, c);
  if (!(square > 0)) return {0, 0};
  double miss = 0;
  for (Index i = 0; i < v.length; ++i) {
    double r = 0;
    for (int j = 0; j < n; ++j) r += (z.at(i, j) - square * v.at(i, j)) * c[static_cast<std::size_t>(j)];
    miss += r * r;
  }
  return {std::sqrt(square), std::sqrt(miss) / square};
}

void check(const Tensor& q, const AttentionOptions& options, const SpectralOptions& how) {
  if (q && q.dtype() != DType::f32 && q.dtype() != DType::f64)
    fail("spectral: q is {}; there are f32 and f64", q.dtype());
  if (options.dropout != 0)
    fail("spectral: dropout = {} must be 0: A would be another matrix at every product", options.dropout);
  if (!(how.tolerance >= 0 && how.tolerance < 1)) fail("spectral: tolerance = {} must be in [0, 1)", how.tolerance);
  if (how.max_iterations < 1) fail("spectral: max_iterations = {} must be 1 or more", how.max_iterations);
  if (how.vectors < 1 || how.vectors > 64) fail("spectral: vectors = {} must be 1 to 64", how.vectors);
}

}  // namespace

Spectral spectral(const Tensor& q, const Tensor& k, const AttentionOptions& options, SpectralState* state,
                  const SpectralOptions& how) {
  check(q, options, how);
  AttentionOptions measured = options, plain = options;
  plain.stats = measured.stats = {};
  measured.form = AttentionForm::quadratic;  // ||A||_F exactly, whatever the form of the products
  if (!q || !k || q.rank() != 4 || k.rank() != 4)
    fail("spectral: q and k must be [B, H, N, d] and [B, H, M, d], got {} and {}", q ? q.shape().text() : "no tensor",
         k ? k.shape().text() : "no tensor");
  if (q.numel() == 0 || k.numel() == 0) fail("spectral: q {} and k {} must not be empty", q.shape(), k.shape());
  const Index batch = k.size(0), heads = k.size(1), rows = q.size(2), keys = k.size(2), matrices = batch * heads;
  const int count = static_cast<int>(std::min<Index>(how.vectors, keys));
  const double tolerance = how.tolerance > 0 ? how.tolerance : q.dtype() == DType::f32 ? 1e-6 : 1e-13;
  measured.stats = zeros({batch, heads, attention_stats}, {DType::f64, q.device()});

  Spectral out;
  out.batch = batch, out.heads = heads;
  const auto size = static_cast<std::size_t>(matrices);
  out.norm.assign(size, nan), out.residual.assign(size, nan), out.iterations.assign(size, how.max_iterations);
  out.fro.assign(size, nan), out.stable_rank.assign(size, nan), out.converged.assign(size, false);

  const Shape shape{batch, heads, keys, count};
  std::vector<double> v;
  if (state && state->vectors && state->vectors.shape() == shape) v = state->vectors.values();
  const bool warm = !v.empty();
  if (!warm) v.resize(static_cast<std::size_t>(shape.numel()));
  const auto block = [&](std::vector<double>& all, Index matrix, Index length) {
    return Block{all.data() + matrix * length * count, length, count};
  };
  for (Index m = 0; m < matrices; ++m) {
    const Block b = block(v, m, keys);
    if (!warm)
      for (int c = 0; c < count; ++c) b.draw(c, stream_id(static_cast<std::uint64_t>(c)));
    b.orthonormalize();
  }

  const GradMode recording(true);
  const Tensor queries = q.detach(), columns = k.detach();
  std::vector<bool> done(size, false);
  for (int iteration = 1; iteration <= how.max_iterations; ++iteration) {
    const Tensor values = cast(from_values(v, shape, {DType::f64, q.device()}), q.dtype()).detach().track();
    const Tensor product = attention(queries, columns, values, iteration == 1 ? measured : plain);
    std::vector<double> used = values.values(), w = product.values(), shrunk = w;
    // A^T A V may be beyond the dtype where A V is not: each head's A V is divided by its largest entry on the way.
    std::vector<double> largest(size, 1);
    for (std::size_t m = 0; m < size; ++m) {
      const auto entries =
          std::span(shrunk).subspan(m * static_cast<std::size_t>(rows * count), static_cast<std::size_t>(rows * count));
      double most = 0;
      for (double x : entries) most = std::max(most, std::abs(x));
      if (!(most > 0 && std::isfinite(most))) continue;
      largest[m] = most;
      for (double& x : entries) x /= most;
    }
    const Tensor seed = cast(from_values(shrunk, product.shape(), {DType::f64, q.device()}), q.dtype());
    std::vector<double> z = grad(product, std::span(&values, 1), seed)[0].values();
    for (std::size_t i = 0; i < z.size(); ++i) z[i] *= largest[i / static_cast<std::size_t>(keys * count)];
    bool all = true;
    for (Index m = 0; m < matrices; ++m) {
      const auto i = static_cast<std::size_t>(m);
      if (done[i]) continue;
      const Ritz found = rayleigh_ritz(block(used, m, keys), block(w, m, rows), block(z, m, keys));
      const double change = std::abs(found.norm - out.norm[i]);  // NaN, so never small, in the first iteration
      out.norm[i] = found.norm, out.residual[i] = found.residual, out.iterations[i] = iteration;
      out.converged[i] =
          found.norm == 0 || (change <= tolerance * found.norm && found.residual <= std::sqrt(tolerance));
      done[i] = out.converged[i] || std::isnan(found.norm);
      all = all && done[i];
      if (std::isnan(found.norm)) {  // the next call starts afresh
        for (int c = 0; c < count; ++c) block(v, m, keys).draw(c, stream_id(static_cast<std::uint64_t>(c)));
        continue;
      }
      if (found.norm == 0) continue;
      std::copy_n(z.data() + m * keys * count, keys * count, v.data() + m * keys * count);
      block(v, m, keys).orthonormalize();
    }
    if (iteration == 1) {
      const std::vector<double> stats = measured.stats.values();
      for (std::size_t i = 0; i < size; ++i)
        out.fro[i] = std::sqrt(stats[i * attention_stats + static_cast<std::size_t>(AttentionStat::fro2)]);
    }
    if (all) break;
  }
  for (std::size_t i = 0; i < size; ++i) {
    const double ratio = out.fro[i] / out.norm[i];
    out.stable_rank[i] = out.norm[i] > 0 && std::isfinite(ratio) ? ratio * ratio : nan;
  }
  if (state) state->vectors = from_values(v, shape, {DType::f64});
  return out;
}

}  // namespace norma::inspect
