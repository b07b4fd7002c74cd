// Attention without the matrix A, for polynomials of small width: exact, in time and memory that grow like N. See
// docs/linear-attention.md.
#pragma once

#include "core/backend.h"

namespace norma::cpu {

/// Whether the call is to be computed in linear form: asked for and possible, or automatic and measured to be cheaper. It depends
/// on the scoring, the sizes, the dropout, and whether matrices of bf16 are multiplied as such.
bool linear_form(const Attention& a, const View& q, const View& k);

/// The layouts that CpuBackend::attention accepts. Statistics that the monomials give exactly are written over those in
/// a.stats, which the caller has estimated.
void attention_linear(const AttentionForward& a);
void attention_linear_backward(const AttentionBackward& a);

/// Estimates of the statistics from sampled rows, through the quadratic kernels of `backend`.
void sample_statistics(Backend& backend, const AttentionForward& a);
void sample_statistics(Backend& backend, const AttentionBackward& a);

}  // namespace norma::cpu
