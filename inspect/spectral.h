// The spectral norm of the attention matrix, from products with it alone: A is never formed.
//
//   AttentionOptions options{.scoring = nn::parse_scoring("x^3/sqrt(N)")};
//   inspect::SpectralState state;                                  // keep it: the next call starts where this one ended
//   inspect::Spectral s = inspect::spectral(q, k, options, &state);
//   s.norm[b * s.heads + h], s.stable_rank[b * s.heads + h]
#pragma once

#include <vector>

#include "autograd/ops.h"

namespace norma::inspect {

struct SpectralOptions {
  double tolerance = 0;    // relative change of the norm between two iterations; 0: 1e-6 in f32, 1e-13 in f64
  int max_iterations = 500;
  int vectors = 8;         // iterated together; more converge faster where singular values lie close to each other
};

/// Per (batch, head), row-major [B, H].
struct Spectral {
  Index batch = 0, heads = 0;
  std::vector<double> norm;         // ||A||_2, the largest singular value
  std::vector<double> fro;          // ||A||_F, from the kernel's statistics
  std::vector<double> stable_rank;  // ||A||_F^2 / ||A||_2^2, 1 to the rank of A; NaN where A is zero
  /// ||A^T A v - s^2 v|| / s^2 of the unit vector v found for s: at most the relative distance of s^2 to the nearest squared
  /// singular value of A.
  std::vector<double> residual;
  std::vector<int> iterations;      // products with A and A^T until it converged, or max_iterations
  std::vector<bool> converged;      // the change fell below the tolerance, and the residual below its root
};

/// The right singular vectors found last, f64 [B, H, M, vectors]; empty before the first call. A warm start: for a layer
/// whose weights moved one step, a few iterations do. Of another shape than a call needs, it is made anew.
struct SpectralState {
  Tensor vectors;
};

/// q[B, H, N, d] and k[B, H, M, d] as attention() takes them, f32 or f64. Block power iteration on A^T A with Rayleigh-Ritz
/// (Golub & Van Loan, section 8.2.4): A V is attention with V as its values, A^T U the derivative with respect to them; on a
/// backend with fused attention memory grows with N + M, where it declines the composition forms A. The small problems
/// (M x vectors) are solved on the host in f64, in one fixed order; each head's result does not depend on the others.
/// A head whose A is not finite gets NaN, unconverged. Throws on dropout (a random A has no one norm), other dtypes, a
/// tolerance or count out of range, and what attention() refuses. options.stats is neither read nor written.
Spectral spectral(const Tensor& q, const Tensor& k, const AttentionOptions& options = {}, SpectralState* state = nullptr,
                  const SpectralOptions& how = {});

}  // namespace norma::inspect
