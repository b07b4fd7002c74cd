// How numbers are made: the families of verbs every device offers. Outputs are allocated by the caller; inputs and outputs
// may have any strides, also zero and negative ones, and any size, also zero. Shapes and dtypes are checked above
// (autograd/); a backend may assume them as documented here. What is declared `= {}` may be absent (View tests false).
//
// The required verbs are pure virtual. Fused verbs return false to decline (a dtype, a layout, a size they do not cover):
// the op then runs its composition of the required verbs. A verb never changes its inputs, takes large scratch from its
// device's pool (the reference: from the system), and gives the same bits whatever the number of threads.
//
// Mixed precision: bf16 is how activations are stored, the residual stream and their gradients included. Parameters, their
// gradients, the optimizer's state, the statistics of norms and of attention rows and losses are f32, statistics of
// attention f64. So a fused verb sees one of two mixtures: all operands f32 (or all f64), or those that are activations bf16
// and the others f32; "(a)" names the activations below. Everything between reading and writing is computed and summed in
// f32, results are rounded to nearest even once, when they are stored. A matrix product multiplies bf16 by bf16 and sums in
// f32: weights, and biases where the product adds them, are rounded on the way in. Losses take f32: logits are cast first. The required verbs see one dtype; on bf16
// they compute in f32 and round once.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/op_list.h"
#include "core/random.h"
#include "core/scoring.h"
#include "core/tensor.h"

namespace norma {

struct MemoryUse {
  std::size_t in_use = 0;           // bytes held by live storages
  std::size_t peak = 0;             // largest in_use so far
  std::size_t reserved = 0;         // bytes obtained from the system
  std::uint64_t system_requests = 0;  // how often the system was asked
};

/// Geometry of a 2-d sliding window (convolution, unfold): sizes in elements.
struct Window {
  Index kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
  Index out_h(Index h) const { return (h + 2 * pad_h - kernel_h) / stride_h + 1; }
  Index out_w(Index w) const { return (w + 2 * pad_w - kernel_w) / stride_w + 1; }
};

enum class RandomKind : std::uint8_t { uniform, normal, keep };  // keep: 1/(1-p) with probability 1-p, else 0

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

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  /// What decides the bits of results beside sizes, dtypes and values, where that is known: the CPU's instruction set.
  virtual std::string_view instructions() const { return {}; }

  // memory: blocks of at least 64-byte alignment from a caching pool
  virtual void* allocate(std::size_t bytes) = 0;  // never null, nor for 0 bytes; throws Error: need, and what is free
  virtual void release(void* block, std::size_t bytes) = 0;
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;
  virtual void synchronize() {}
  virtual MemoryUse memory() const = 0;
  virtual void reset_peak() = 0;

  // element-wise; inputs already have the output's shape (expanded, stride 0)
  virtual void copy(const View& in, const View& out) = 0;  // = cast = contiguous
  virtual void fill(double value, const View& out) = 0;
  virtual void unary(UnaryOp op, const View& x, const View& out, double parameter = 0) = 0;
  virtual void binary(BinaryOp op, const View& a, const View& b, const View& out) = 0;  // comparisons write bool
  virtual void where(const View& condition, const View& a, const View& b, const View& out) = 0;

  // out has x's rank with the reduced axes of size 1; i64 out of sums of integers, argmax and argmin (exactly one axis; ties take the first)
  virtual void reduce(ReduceOp op, const View& x, const View& out) = 0;
  virtual void cumsum(const View& x, int axis, const View& out) = 0;  // one dtype; summed in double or i64, rounded to it at each step

  // a[..., m, k] b[..., k, n] -> out[..., m, n]; leading axes equal (expanded)
  virtual void matmul(const View& a, const View& b, const View& out) = 0;

  // index i64, bounds already checked by `check_index`
  virtual void gather(const View& x, int axis, const View& index, const View& out) = 0;       // index has out's shape
  virtual void scatter_add(const View& x, int axis, const View& index, const View& out) = 0;  // adds into out
  virtual void index_select(const View& x, int axis, const View& index, const View& out) = 0;  // index [n]
  virtual void index_add(const View& x, int axis, const View& index, const View& out) = 0;     // adds into out
  /// Position (row-major) of the first index outside [0, limit), or -1.
  virtual Index check_index(const View& index, Index limit) = 0;

  // x[B, C, h, w] <-> columns[B, C * kernel_h * kernel_w, out_h * out_w]; fold adds where windows overlap
  virtual void unfold(const View& x, const Window& window, const View& columns) = 0;
  virtual void fold(const View& columns, const Window& window, const View& x) = 0;

  virtual void random(RandomKind kind, RandomStream stream, double p, const View& out) = 0;  // out contiguous

  // fused verbs: may decline
  virtual bool softmax(const View& /*x*/, const View& /*y*/, bool /*log*/) { return false; }  // over the last axis
  virtual bool softmax_backward(const View& /*y*/, const View& /*dy*/, const View& /*dx*/, bool /*log*/) { return false; }
  /// dx = dy op'(x), by x or by y = op(x), whichever the op's derivative keeps (autograd/ops_elementwise.cpp).
  virtual bool unary_backward(UnaryOp, const View& /*kept*/, const View& /*dy*/, const View& /*dx*/) { return false; }
  virtual bool layer_norm(const LayerNormForward&) { return false; }
  virtual bool layer_norm_backward(const LayerNormBackward&) { return false; }
  /// How many blocks `rows` rows are summed in when layer_norm_backward() leaves partial sums to join_norm_sums(); 0: it cannot. The bits are the same.
  virtual Index norm_sum_parts(Index /*rows*/) const { return 0; }
  /// The gradients of weights and biases from what layer_norm_backward() left, for many norms at once.
  virtual void join_norm_sums(std::span<const NormSums>) {}
  virtual bool cross_entropy(const CrossEntropy&) { return false; }
  virtual bool cross_entropy_backward(const CrossEntropyBackward&) { return false; }
  /// Whether linear() stores the rounded weight, so that the backward pass can reuse it.
  virtual bool rounds_weights() const { return false; }
  /// Rounds many weights and biases at once: to[i] = from[i] (f32, not empty), rounded; all contiguous.
  virtual void round_weights(std::span<const View> from, std::span<const View> to) {
    for (std::size_t i = 0; i < from.size(); ++i) copy(from[i], to[i]);
  }
  virtual bool linear(const LinearForward&) { return false; }
  virtual bool linear_backward(const LinearBackward&) { return false; }
  virtual bool mlp(const Mlp&) { return false; }  // declined: two linears
  virtual bool mlp_backward(const MlpBackward&) { return false; }
  virtual bool attention(const AttentionForward&) { return false; }
  virtual bool attention_backward(const AttentionBackward&) { return false; }
  virtual bool cut_images(const ImageCuts&) { return false; }
  /// Convolution with one kernel a channel: x[B, C, h, w], weight[C, 1, kernel_h * kernel_w] and bias[C] in its wide type, y[B, C, oh, ow].
  virtual bool depthwise(const View& /*x*/, const View& /*weight*/, const View& /*bias*/, const Window&, const View& /*y*/) { return false; }
  /// dx, and dweight in the wide type, each where it is present.
  virtual bool depthwise_backward(const View& /*dy*/, const View& /*x*/, const View& /*weight*/, const Window&, const View& /*dx*/, const View& /*dweight*/) { return false; }

  // all parameters of a model at once
  /// out (f64 []) = the sum of the squares of all elements of all xs (of one dtype), in f64, in an order that the sizes alone
  /// decide: for gradient norms. NaN or infinity in an x gives a non-finite result.
  virtual void sum_of_squares(std::span<const View> xs, const View& out) = 0;
  virtual void adamw(const AdamW& args) = 0;
  virtual bool gradient_scale(const GradientScale&) { return false; }  // may decline
  /// One step of each: average += (value - average) * (1 - decay), each step rounded to the dtype: the bits of sub, mul and add.
  virtual void moving_averages(std::span<const MovingAverage> all, double decay) = 0;

  /// A way for batches to reach the device while it computes: slots of two buffers each, one on the host and one on the device. One
  /// thread fills and sends, another takes and gives back; a slot goes round fill, send, take, give back, and may be filled and sent again
  /// instead of being taken. Neither send nor take waits for the device.
  struct Feed {
    virtual ~Feed() = default;
    /// The host's buffer, to be written; waits until what was last sent from it has arrived.
    virtual void* fill(int slot) = 0;
    /// Starts the copy to the device, which begins once the work that read the device's buffer is done.
    virtual void send(int slot) = 0;
    /// The device's buffer, for work asked for from now on: it begins once the copy has arrived.
    virtual void* take(int slot) = 0;
    /// The work asked for so far is the last that reads the device's buffer.
    virtual void give_back(int slot) = 0;
  };
  /// nullptr: what is uploaded is there at once, or arrives in order with the work.
  virtual std::unique_ptr<Feed> feed(int /*slots*/, std::size_t /*bytes*/) { return nullptr; }

  /// A step captured once and replayed (CUDA graphs); nullptr: run eagerly.
  struct Graph {
    virtual ~Graph() = default;
    virtual void replay() = 0;
    /// What a replay launches, in order: kernels by their names, "product" where it is a library's; copies and the like by what they are.
    virtual std::vector<std::string> launches() const { return {}; }
  };
  virtual std::unique_ptr<Graph> capture(const std::function<void()>&) { return nullptr; }
};

/// The backend of a device; throws Error naming what this build has. Backends are made on first use.
Backend& backend(Device device);
/// Backend::sum_of_squares of one tensor, on the host.
double sum_of_squares(const Tensor& x);
using BackendFactory = std::unique_ptr<Backend> (*)(int index);
/// Called by each backend's own registration, which backends/register_all.cpp calls.
void register_backend(Device::Kind kind, BackendFactory factory);

}  // namespace norma
