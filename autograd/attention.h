// What the files of attention share: which pairs of (row, column) take part, the checks, the statistics. Internal to
// this room; users include autograd/ops.h.
#pragma once

#include "autograd/fused_util.h"

namespace norma::fused {

/// The pairs that no mask hides; both empty where every pair takes part.
struct Visible {
  Tensor condition;  // bool, broadcasts to [B, H, N, M]
  Tensor mask;       // the same as 0 and 1 in the scores' dtype
  explicit operator bool() const { return static_cast<bool>(mask); }
  /// How many columns each row sees, in the scores' dtype; only where there is a mask. [B or 1, 1, N or 1, 1]
  Tensor count() const { return sum(mask, {-1}, true); }
};

/// Throws unless key_mask is bool [batch, keys] and stats f64 [batch, heads, attention_stats], where given.
void check_masks(const char* op, const AttentionOptions& options, Index batch, Index heads, Index keys, Device device);

/// What phi(s) is multiplied by: 0-d, or one factor for each row; empty for 1.
Tensor row_scale(const Scoring& scoring, const Visible& visible, const Tensor& scores);

/// What a row that sums to x is divided by, in arithmetic of `computed`: x, and 1 where x is 0, or so small that 1 / x may be no number there.
/// So rows that sum to nothing stay zero.
Tensor divisor_of_sum(const Tensor& x, DType computed);

/// Fills options.stats from the matrices, and sees to it that the backward pass completes them: what a kernel does by
/// itself. `scores`, `phi` (before the clamp, which alone has the Jacobian of AttentionStat::jac2) and `weights` (A as it is
/// used) [B, H, N, M] as recorded. One call has several A where it was differentiated under create_graph, the kernel's and one of each
/// composition since: what is measured in a sweep is the sum of their gradients.
void measure(const Tensor& scores, const Tensor& phi, const Tensor& weights, const Visible& visible, const AttentionOptions& options);

/// Whether the sweep under way has met gradients of these statistics' A that the kernel's own, which it does not show, is to be added to.
bool met_gradients(const Tensor& stats);

}  // namespace norma::fused
