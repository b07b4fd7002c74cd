// What the verbs of a backend take (core/backend.h): one struct for each that needs more than a few views. What is declared `= {}`
// may be absent (View tests false).
//
// Mixed precision: bf16 is how activations are stored, the residual stream and their gradients included. Parameters, their
// gradients, the optimizer's state, the statistics of norms and of attention rows and losses are f32, statistics of
// attention f64. So a fused verb sees one of two mixtures: all operands f32 (or all f64), or those that are activations bf16
// and the others f32; "(a)" names the activations below. Everything between reading and writing is computed and summed in
// f32, results are rounded to nearest even once, when they are stored. A matrix product multiplies bf16 by bf16 and sums in
// f32: weights, and biases where the product adds them, are rounded on the way in. Losses take f32: logits are cast first.
// The required verbs see one dtype; on bf16 they compute in f32 and round once.
#pragma once

#include <span>

#include "core/random.h"
#include "core/scoring.h"
#include "core/tensor.h"

namespace norma {

/// Geometry of a 2-d sliding window (convolution, unfold): sizes in elements.
struct Window {
  Index kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
  Index out_h(Index h) const { return (h + 2 * pad_h - kernel_h) / stride_h + 1; }
  Index out_w(Index w) const { return (w + 2 * pad_w - kernel_w) / stride_w + 1; }
};

/// Convolution in groups (cross-correlation, as everywhere in this field): y[b, o, r, q] = sum over the channels c of o's group and the
/// kernel's i, j of weight[o, c, i, j] x[b, c, r stride_h + i - pad_h, q stride_w + j - pad_w], zeros outside the image, + bias[o]. (a): x, y.
struct Convolution {
  View x, weight, y;  // [B, C, h, w], [groups, O / groups, C / groups * kernel_h * kernel_w], [B, O, oh, ow]; weight and y contiguous
  Window window;
  Index groups = 1;
  View bias = {};  // [O]
};
/// The gradients of x and of the weight, each where it has a place. (a): dy, x, dx.
struct ConvolutionBackward {
  View dy, x, weight;  // dy, weight and what is received contiguous
  Window window;
  Index groups = 1;
  View dx = {}, dweight = {};
};

/// A linear layer: Y[m, n] = X[m, k] W[n, k]^T + bias[n], perhaps through GELU, then + residual. (a): x, y, residual, pre.
struct LinearForward {
  View x, weight, y;   // [..., k], [n, k], [..., n]; x's and y's leading axes collapse to rows
  View bias = {};      // [n]
  View residual = {};  // shape of y, added last
  View pre = {};       // with gelu: receives X W^T + bias
  bool gelu = false;   // exact (erf) form
  // Where rounds_weights(): contiguous, in y's dtype. Either rounded_weight (and rounded_bias, if there is a bias), made by round_weights(), is given and
  // read instead, or rounded_weight_out receives the weight as it is multiplied.
  View rounded_weight = {}, rounded_bias = {}, rounded_weight_out = {};
};
/// dX = dY W, dW = dY^T X, db = column sums of dY; each computed where it has a place. (a): dy, x, dx, gelu_pre.
struct LinearBackward {
  View dy;
  View x = {};       // needed for dW; with `x_is_pre_gelu` it holds the pre-activation h and X = gelu(h)
  View weight = {};  // needed for dX
  bool x_is_pre_gelu = false;
  View dx = {};  // with `gelu_pre`, dX is multiplied by gelu'(gelu_pre): the gradient of the pre-activation
  View gelu_pre = {}, dweight = {}, dbias = {};
  View rounded_weight = {};  // what LinearForward or round_weights() left there, read in place of weight
};

/// An MLP: Y = gelu(X W1^T + b1) W2^T + b2 (+ residual). (a): x, y, residual, pre.
struct Mlp {
  View x, w1, w2, y;      // [..., in], [hidden, in], [out, hidden], [..., out]
  View b1 = {}, b2 = {};  // [hidden], [out]
  View residual = {};     // shape of y, added last
  View pre = {};          // [..., hidden]: receives X W1^T + b1
};
/// The gradients of its weights, and those of X and its biases where they have a place. (a): dy, x, pre, dx.
struct MlpBackward {
  View dy, x, pre, w1, w2;
  View dw1, dw2;
  View dx = {}, db1 = {}, db2 = {};
};

/// Attention over q[B, H, N, d], k[B, H, M, d], v[B, H, M, e] -> out[B, H, N, e], any strides with the last axis dense, so
/// that a packed qkv[B, N, 3, H, d] and an output [B, N, H, e] are read and written in place. (a): all of these and their
/// gradients; row_lse is not.
///   S = scale q k^T;  A = mask . phi(S);  out = dropout(A) v
/// Masks multiply after phi (softmax: the hidden columns do not take part in the row).
struct Attention {
  Scoring scoring;
  double scale = 1;     // 1/sqrt(d)
  bool causal = false;  // row i sees columns j <= i + M - N
  View key_mask = {};   // bool [B, M], of any strides: false hides a column
  double dropout = 0;
  RandomStream stream;  // element index ((b H + h) N + i) M + j
  View stats = {};      // f64 [B, H, attention_stats]; absent: not measured
  /// Whether A may be avoided; never depends on `stats`, so that watching changes no bit. In linear form some statistics are
  /// estimated from sampled rows: docs/linear-attention.md says which.
  AttentionForm form = AttentionForm::automatic;
};
struct AttentionForward : Attention {
  View q, k, v, out;
  View row_lse = {};  // f32/f64 [B, H, N] log-sum-exp of the rows, saved for the backward pass (softmax only)
};
struct AttentionBackward : Attention {
  View q, k, v, out, dout, dq, dk, dv;
  View row_lse = {};
};

/// y = (x - mean) * rstd * weight + bias over the last axis; rms: y = x * rstd * weight. (a): x, y, dy, dx.
struct LayerNormForward {
  View x, y;
  View weight = {}, bias = {};
  View mean = {}, rstd = {};  // [rows]: received by forward, read by backward (rms: no mean)
  double eps = 1e-6;
  bool rms = false;
};
struct LayerNormBackward {
  View x, dy;
  View dx = {}, add = {};  // add: shaped as dx and added to it: the gradient that a residual branch brings
  View weight = {}, mean = {}, rstd = {};
  View dweight = {}, dbias = {};
  View sums = {};  // instead of both: receives sums over parts of the rows, for join_norm_sums()
  bool rms = false;
};
/// What layer_norm_backward() left of one norm, and what is to be made of it.
struct NormSums {
  View sums;                      // [norm_sum_parts(rows), 2, n] in weight's dtype, contiguous
  View dweight = {}, dbias = {};  // [n], contiguous
};

/// loss[row] = -sum_c t_c log softmax(logits)_c, with t = (1 - label_smoothing) target + label_smoothing / classes.
struct CrossEntropy {
  View logits, targets, loss;  // targets: i64 [rows], or [rows, classes] in logits' dtype
  double label_smoothing = 0;
  View sums = {};  // [rows, 2], receives the largest logit and sum_c t_c / sum_c exp(logit_c - largest); as loss in f32 for bf16
};
/// dlogits = scale (softmax(logits) sum_c t_c - t), rounded once.
struct CrossEntropyBackward {
  View logits, targets, sums, scale, dlogits;  // sums: of the forward pass; scale: one number of its dtype
  double label_smoothing = 0;
};

/// A batch of images from a set in the device's memory, augmented and normalised. The window of h x w that shows row `down` and column
/// `right` of an example in its corner, zeros where it reaches beyond, perhaps mirrored left to right, is edited and stands in the middle
/// of H x W zeros; then each byte of channel c becomes values[c, byte], rounded to out's dtype.
struct ImageCuts {
  View set;     // u8 [count, C, h, w]
  View cuts;    // i64 [B, 4]: example, down, right, mirror (0 or 1)
  View edits;   // i32 [B, n, 8]: each an ImageEdit (core/image_edit.h), carried out in turn; n may be 0
  View values;  // f32 [C, 256]
  View out;     // floating [B, C, H, W]; all five contiguous
};

/// One AdamW update (Loshchilov and Hutter, arXiv 1711.05101, in PyTorch's order of operations) of all parameters of a step. With
/// g = gradient_scale * gradient and update t, from 1:
///   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   x = (1 - lr decay) x - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// What changes from step to step lies in the device's memory and is read when the update runs, so that a captured one follows it.
struct AdamW {
  struct Parameter {
    View value, gradient, m, v;  // of one shape, contiguous
    double decay = 0;
  };
  std::span<const Parameter> parameters;  // all f32 or all f64
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  View rates;           // f64 [3], contiguous: lr, 1 - beta1^t, 1 - beta2^t
  View gradient_scale;  // f64 []: from clipping; not finite: the update changes nothing
};

/// What gradients are multiplied by: min(clip / root of squares, 1), or 1 where clip is 0; NaN where squares or loss is not finite.
struct GradientScale {
  View squares, loss, scale;  // f64 [], floating [], f64 []
  double clip = 0;
};

/// A tensor and its exponential moving average, of one shape and floating dtype, contiguous, in memory of their own.
struct MovingAverage {
  View average, value;
};

}  // namespace norma
