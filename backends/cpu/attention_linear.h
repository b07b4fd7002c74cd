// Attention without the matrix A, for polynomials of small width: exact, in time and memory that grow like N. See
// docs/linear-attention.md.
#pragma once

#include "core/backend.h"

namespace norma::cpu {

/// Whether the call is to be computed in linear form: asked for and possible, or automatic and measured to be cheaper. It depends
/// on the scoring, the sizes, the dropout, the dtype, and what multiplies matrices (packed_products.h).
bool linear_form(const Attention& a, const View& q, const View& k);

/// The layouts that CpuBackend::attention accepts. Statistics that the monomials do not give exactly are estimated
/// (attention_sampled.h).
void attention_linear(const AttentionForward& a);
void attention_linear_backward(const AttentionBackward& a);

}  // namespace norma::cpu
