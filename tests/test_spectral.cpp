// The spectral norm without the matrix, held against the singular values of the matrix itself.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "backends/cpu/parallel.h"
#include "inspect/spectral.h"
#include "nn/layers.h"
#include "tests/cpu_settings.h"

using namespace norma;
using namespace norma::inspect;

namespace {

/// Singular values of a row-major rows x columns matrix, largest first: one-sided Jacobi (Golub & Van Loan, section 8.6.3).
std::vector<double> singular_values(std::vector<double> a, Index rows, Index columns) {
  const auto at = [&](Index r, Index c) -> double& { return a[static_cast<std::size_t>(r * columns + c)]; };
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (Index p = 0; p < columns; ++p)
      for (Index q = p + 1; q < columns; ++q) {
        double pp = 0, qq = 0, pq = 0;
        for (Index r = 0; r < rows; ++r) pp += at(r, p) * at(r, p), qq += at(r, q) * at(r, q), pq += at(r, p) * at(r, q);
        if (pq == 0 || std::abs(pq) <= 1e-15 * std::sqrt(pp * qq)) continue;
        rotated = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double t = (zeta < 0 ? -1 : 1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (Index r = 0; r < rows; ++r) {
          const double x = at(r, p), y = at(r, q);
          at(r, p) = c * x - s * y, at(r, q) = s * x + c * y;
        }
      }
    if (!rotated) break;
  }
  std::vector<double> out;
  for (Index c = 0; c < columns; ++c) {
    double sum = 0;
    for (Index r = 0; r < rows; ++r) sum += at(r, c) * at(r, c);
    out.push_back(std::sqrt(sum));
  }
  std::sort(out.rbegin(), out.rend());
  return out;
}

/// A[B, H, N, M] by the composition, in f64.
Tensor matrix(const Tensor& q, const Tensor& k, const AttentionOptions& options) {
  const Tensor a = cast(q, DType::f64), b = cast(k, DType::f64);
  return attention_weights(matmul(a, transpose(b)) / std::sqrt(static_cast<double>(q.size(3))), options);
}

/// One matrix of a stack, row-major.
std::vector<double> one(const Tensor& a, Index b, Index h) { return select(select(a, 0, b), 0, h).values(); }

AttentionOptions with(const std::string& scoring, bool causal = false) {
  AttentionOptions options;
  options.scoring = nn::parse_scoring(scoring), options.causal = causal;
  return options;
}

Tensor normal(const Shape& shape, std::uint64_t seed, DType dtype) { return nn::Init(seed, {dtype}).normal(shape, 1).track(false); }

}  // namespace

TEST_CASE("the oracle's singular values are those of matrices whose are known", "[spectral]") {
  const auto diagonal = singular_values({3, 0, 0, 0, -5, 0, 0, 0, 1}, 3, 3);
  CHECK(diagonal[0] == Approx(5));
  CHECK(diagonal[2] == Approx(1));
  const auto rank_one = singular_values({1, 2, 2, 2, 4, 4}, 2, 3);  // (1, 2)^T (1, 2, 2)
  CHECK(rank_one[0] == Approx(std::sqrt(5.0) * 3));
  CHECK(rank_one[1] == Approx(0).margin(1e-12));
}

TEST_CASE("spectral norm and stable rank equal an SVD", "[spectral]") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const char* scoring : {"softmax", "x", "x^3/sqrt(N)", "relu/N", "x^2/sum(x^2)", "sigmoid(x - log(N))", "x^3/sqrt(n)"})
      for (const bool causal : {false, true})
        for (const Index keys : {Index{23}, Index{40}}) {
          const Tensor q = normal({2, 2, 23, 8}, 3, dtype), k = normal({2, 2, keys, 8}, 4, dtype);
          const AttentionOptions options = with(scoring, causal);
          const Spectral found = spectral(q, k, options);
          const Tensor a = matrix(q, k, options);
          for (Index b = 0; b < 2; ++b)
            for (Index h = 0; h < 2; ++h) {
              const auto i = static_cast<std::size_t>(b * 2 + h);
              const auto s = singular_values(one(a, b, h), 23, keys);
              double squares = 0;
              for (double v : s) squares += v * v;
              const double tolerance = dtype == DType::f32 ? 1e-4 : 1e-8;
              CAPTURE(scoring, causal, name(dtype), keys, i, found.iterations[i], found.residual[i], s[0], s[1]);
              CHECK(found.converged[i]);
              CHECK(std::abs(found.norm[i] - s[0]) <= tolerance * s[0]);
              CHECK(std::abs(found.fro[i] - std::sqrt(squares)) <= tolerance * std::sqrt(squares));
              CHECK(std::abs(found.stable_rank[i] - squares / (s[0] * s[0])) <= 2 * tolerance * squares / (s[0] * s[0]));
            }
        }
}

TEST_CASE("spectral: masked keys, any scale, one vector, the reference backend", "[spectral]") {
  const Tensor q = normal({1, 2, 9, 4}, 5, DType::f64), k = normal({1, 2, 9, 4}, 6, DType::f64);
  AttentionOptions options = with("softmax");
  options.key_mask = greater(from_values({1, 0, 1, 1, 0, 1, 1, 1, 0}, {1, 9}), scalar_like(0.5, from_values({0}, {1})));
  const double expected = singular_values(one(matrix(q, k, options), 0, 1), 9, 9)[0];
  CHECK(spectral(q, k, options).norm[1] == Approx(expected).epsilon(1e-8));
  CHECK(spectral(q, k, options, nullptr, {.max_iterations = 5000, .vectors = 1}).norm[1] == Approx(expected).epsilon(1e-8));
  {
    NoFusion composition;
    CHECK(spectral(q, k, options).norm[1] == Approx(expected).epsilon(1e-8));
  }
  const Tensor far = to(q, parse_device("reference")), away = to(k, parse_device("reference"));
  AttentionOptions there = options;
  there.key_mask = to(options.key_mask, parse_device("reference"));
  CHECK(spectral(far, away, there).norm[1] == Approx(expected).epsilon(1e-8));

  AttentionOptions scaled = with("x");
  scaled.scale = 3;
  CHECK(spectral(q, k, scaled).norm[0] == Approx(6 * spectral(q, k, with("x")).norm[0]).epsilon(1e-8));  // 1/sqrt(4) by default
}

TEST_CASE("spectral: the Frobenius norm is exact in linear form too", "[spectral]") {
  const Tensor q = normal({1, 1, 100, 20}, 3, DType::f64), k = normal({1, 1, 100, 20}, 4, DType::f64);
  AttentionOptions options = with("x^2/sqrt(N)");
  const double exact = spectral(q, k, options).fro[0];
  options.form = AttentionForm::linear;
  CHECK(spectral(q, k, options).fro[0] == Approx(exact).epsilon(1e-10));
}

TEST_CASE("spectral: matrices whose norms are known", "[spectral]") {
  // Queries of zero: softmax rows are uniform, A = 1 1^T / N, of norm 1 and rank 1. The second
  // iteration starts from its only singular vector, the third sees no change.
  const Tensor zero = zeros({1, 1, 12, 4}, {DType::f64}), k = normal({1, 1, 12, 4}, 7, DType::f64);
  const Spectral uniform = spectral(zero, k);
  CHECK(uniform.norm[0] == Approx(1).epsilon(1e-12));
  CHECK(uniform.stable_rank[0] == Approx(1).epsilon(1e-12));
  CHECK(uniform.iterations[0] == 3);
  CHECK(uniform.residual[0] < 1e-12);
  // A = 0: no rank, no norm.
  const Spectral nothing = spectral(zero, k, with("x^3"));
  CHECK(nothing.norm[0] == 0);
  CHECK(nothing.converged[0]);
  CHECK(std::isnan(nothing.stable_rank[0]));
  // x with Q = K of orthogonal rows: A = Q Q^T / sqrt d, here the identity times 4: full rank, all singular values equal.
  std::vector<double> eye(16 * 16, 0.0);
  for (std::size_t i = 0; i < 16; ++i) eye[i * 17] = 4;
  const Tensor q = from_values(eye, {1, 1, 16, 16}, {DType::f64});
  const Spectral identity = spectral(q, q, with("x"));
  CHECK(identity.norm[0] == Approx(4).epsilon(1e-12));
  CHECK(identity.stable_rank[0] == Approx(16).epsilon(1e-12));
}

TEST_CASE("spectral: norms whose squares are beyond the dtype", "[spectral]") {
  for (const auto& [scoring, size] : {std::pair{"x^8", 200.0}, {"x^4", 1e5}, {"x^8", 3e-4}}) {
    const Tensor q = normal({1, 2, 24, 8}, 1, DType::f32) * size, k = normal({1, 2, 24, 8}, 2, DType::f32);
    const AttentionOptions options = with(scoring);
    const Spectral got = spectral(q, k, options), wanted = spectral(cast(q, DType::f64), cast(k, DType::f64), options);
    CAPTURE(scoring, size);
    for (std::size_t h = 0; h < 2; ++h) {
      CHECK((got.converged[h] && wanted.converged[h]));
      CHECK(got.norm[h] == Approx(wanted.norm[h]).epsilon(1e-4));
      CHECK(got.stable_rank[h] == Approx(wanted.stable_rank[h]).epsilon(1e-3));
    }
  }
}

TEST_CASE("spectral: a warm start needs fewer iterations, and other shapes start anew", "[spectral]") {
  const Tensor q = normal({1, 2, 64, 16}, 8, DType::f64), k = normal({1, 2, 64, 16}, 9, DType::f64);
  const AttentionOptions options = with("x^3/sqrt(N)");
  SpectralState state;
  const Spectral cold = spectral(q, k, options, &state);
  CHECK(state.vectors.shape() == Shape{1, 2, 64, 8});
  const Spectral again = spectral(q, k, options, &state);
  const Tensor moved = q + 1e-4 * normal({1, 2, 64, 16}, 10, DType::f64);
  const Spectral warm = spectral(moved, k, options, &state), from_nothing = spectral(moved, k, options);
  for (std::size_t h = 0; h < 2; ++h) {
    CHECK(again.norm[h] == Approx(cold.norm[h]).epsilon(1e-12));
    CHECK(again.iterations[h] == 2);
    CHECK(warm.norm[h] == Approx(from_nothing.norm[h]).epsilon(1e-10));
    CHECK(warm.iterations[h] < from_nothing.iterations[h]);
  }
  const Spectral other = spectral(slice(q, 2, 0, 20), slice(k, 2, 0, 20), options, &state);
  CHECK(state.vectors.shape() == Shape{1, 2, 20, 8});
  CHECK(other.norm == spectral(slice(q, 2, 0, 20), slice(k, 2, 0, 20), options).norm);
}

TEST_CASE("spectral: too few iterations are told, and a head does not depend on its neighbours", "[spectral]") {
  const Tensor q = normal({1, 3, 64, 64}, 11, DType::f64), k = normal({1, 3, 64, 64}, 12, DType::f64);
  const Spectral cut = spectral(q, k, with("x"), nullptr, {.max_iterations = 2});
  CHECK_FALSE(cut.converged[0]);
  CHECK(cut.iterations[0] == 2);
  CHECK(cut.residual[0] > 1e-6);
  AttentionOptions larger = with("x");
  larger.scale = 100;  // instead of 1/8
  CHECK(spectral(q, k, larger, nullptr, {.max_iterations = 2}).residual[0] == Approx(cut.residual[0]).epsilon(1e-9));
  const Spectral together = spectral(q, k, with("x"));
  const Spectral alone = spectral(slice(q, 1, 1, 2), slice(k, 1, 1, 2), with("x"));
  CHECK(alone.norm[0] == together.norm[1]);
  CHECK(alone.iterations[0] == together.iterations[1]);
}

TEST_CASE("spectral: what is not finite is NaN, and the others are untouched", "[spectral]") {
  const Tensor q = normal({1, 2, 10, 4}, 13, DType::f64), k = normal({1, 2, 10, 4}, 14, DType::f64);
  const double second = spectral(q, k, with("x")).norm[1];
  std::vector<double> broken = q.values();
  broken[0] = INFINITY;
  SpectralState state;
  const Spectral found = spectral(from_values(broken, q.shape(), {DType::f64}), k, with("x"), &state);
  CHECK(std::isnan(found.norm[0]));
  CHECK(std::isnan(found.stable_rank[0]));
  CHECK_FALSE(found.converged[0]);
  CHECK(found.norm[1] == second);
  const Spectral mended = spectral(q, k, with("x"), &state);
  CHECK(mended.norm[0] == Approx(spectral(q, k, with("x")).norm[0]).epsilon(1e-10));
}

TEST_CASE("spectral: the same bits with any number of threads; nothing is recorded or written", "[spectral][threads]") {
  Tensor q = normal({2, 3, 70, 16}, 15, DType::f32), k = normal({2, 3, 70, 16}, 16, DType::f32);
  q.track();
  AttentionOptions options = with("softmax");
  options.stats = full({2, 3, attention_stats}, 7, {DType::f64});
  const test::RestoreSettings restore;
  cpu::set_threads(1);
  const Spectral a = spectral(q, k, options);
  cpu::set_threads(4);
  const Spectral b = spectral(q, k, options);
  CHECK(a.norm == b.norm);
  CHECK(a.iterations == b.iterations);
  CHECK_FALSE(q.grad());
  for (double v : options.stats.values()) REQUIRE(v == 7);
  NoGrad off;
  CHECK(spectral(q, k, options).norm == a.norm);
}

TEST_CASE("spectral: the matrix is never formed", "[spectral]") {
  const Index n = 2048;
  for (const char* scoring : {"softmax", "x^3/sqrt(N)"}) {
    const Tensor q = normal({1, 1, n, 8}, 17, DType::f32), k = normal({1, 1, n, 8}, 18, DType::f32);
    backend({}).reset_peak();
    const std::size_t before = backend({}).memory().in_use;
    spectral(q, k, with(scoring), nullptr, {.max_iterations = 2});
    CHECK(backend({}).memory().peak - before < static_cast<std::size_t>(n * n) * sizeof(float) / 4);
  }
}

TEST_CASE("spectral refuses what it cannot measure", "[spectral]") {
  const Tensor q = zeros({1, 1, 4, 2}), k = zeros({1, 1, 4, 2});
  AttentionOptions dropout;
  dropout.dropout = 0.5;
  CHECK_THROWS_WITH(spectral(q, k, dropout), "spectral: dropout = 0.5 must be 0: A would be another matrix at every product");
  CHECK_THROWS_WITH(spectral(q, k, {}, nullptr, {.tolerance = -1}), "spectral: tolerance = -1 must be in [0, 1)");
  CHECK_THROWS_WITH(spectral(q, k, {}, nullptr, {.max_iterations = 0}), "spectral: max_iterations = 0 must be 1 or more");
  CHECK_THROWS_WITH(spectral(q, k, {}, nullptr, {.vectors = 0}), "spectral: vectors = 0 must be 1 to 64");
  CHECK_THROWS_WITH(spectral(zeros({4, 2}), k), "spectral: q and k must be [B, H, N, d] and [B, H, M, d], got [4, 2] and [1, 1, 4, 2]");
  CHECK_THROWS_WITH(spectral(Tensor(), k), "spectral: q and k must be [B, H, N, d] and [B, H, M, d], got no tensor and [1, 1, 4, 2]");
  CHECK_THROWS_WITH(spectral(zeros({1, 1, 0, 2}), k), "spectral: q [1, 1, 0, 2] and k [1, 1, 4, 2] must not be empty");
  CHECK_THROWS_WITH(spectral(cast(q, DType::bf16), cast(k, DType::bf16)), "spectral: q is bf16; there are f32 and f64");
  CHECK_THROWS_WITH(spectral(q, zeros({1, 1, 4, 3})), Catch::StartsWith("attention: q [1, 1, 4, 2] and k [1, 1, 4, 3] differ"));
}
