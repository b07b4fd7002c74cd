// Every operation on tensors, by subject. All are differentiable where mathematics allows it, to any order; they broadcast
// as NumPy does, take strided views, and throw Error with the op's name and the values. Names are NumPy's and PyTorch's.
#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/grad.h"
#include "core/backend.h"

namespace norma {

/// The axes of a reduction: one, several in braces, or none for all. Negative ones count from the end.
class Axes {
 public:
  Axes() = default;
  template <std::integral I>
    requires(!std::same_as<I, bool>)
  Axes(I axis) : axes_{static_cast<int>(axis)} {
    if (!std::in_range<int>(axis)) fail("axes: {} is no axis of any tensor", axis);
  }
  Axes(std::initializer_list<int> axes) : axes_(axes) {}
  Axes(std::vector<int> axes) : axes_(std::move(axes)) {}
  auto begin() const { return axes_.begin(); }
  auto end() const { return axes_.end(); }
  bool empty() const { return axes_.empty(); }

 private:
  std::vector<int> axes_;
};

/// A number beside a tensor, which takes the tensor's dtype and device; integers are exact in i64. No bool: !m and m && n ask whether there
/// are tensors, and would be 0 or 1; logical_not(m) and logical_and(m, n) ask their elements.
class Scalar {
 public:
  template <std::floating_point T>
  Scalar(T value) : value_(static_cast<double>(value)) {}
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  Scalar(T value) : value_(static_cast<double>(value)) {
    if (!std::in_range<Index>(value)) fail("scalar: {} does not fit into i64", value);
    integer_ = static_cast<Index>(value);
  }
  template <std::same_as<bool> T>
  Scalar(T) = delete;
  double value() const { return value_; }
  std::optional<Index> integer() const { return integer_; }  // where it was given as one

 private:
  double value_;
  std::optional<Index> integer_;
};

// ---- element-wise (ops_elementwise.cpp) -----------------------------------------------------------------------------
Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor log1p(const Tensor& x);  // log(1 + x), accurate for small x
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);  // 1 / sqrt(x)
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor relu(const Tensor& x);       // at NaN the gradient passes
Tensor gelu(const Tensor& x);       // x Phi(x), exact (Hendrycks and Gimpel, arXiv 1606.08415)
Tensor gelu_tanh(const Tensor& x);  // their tanh form
Tensor silu(const Tensor& x);       // x sigmoid(x)
Tensor softplus(const Tensor& x);   // log(1 + e^x)
Tensor square(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor sign(const Tensor& x);  // derivative zero
Tensor step(const Tensor& x);  // 1 where x > 0; derivative zero
Tensor pow(const Tensor& x, Scalar exponent);

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);  // integers: towards zero, and 0 where b is
Tensor pow(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);  // at a tie the gradient goes half to each, where one is NaN all of it to both
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor less(const Tensor& a, const Tensor& b);  // comparisons give bool
Tensor less_equal(const Tensor& a, const Tensor& b);
Tensor greater(const Tensor& a, const Tensor& b);
Tensor greater_equal(const Tensor& a, const Tensor& b);
Tensor equal(const Tensor& a, const Tensor& b);
Tensor not_equal(const Tensor& a, const Tensor& b);
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);  // a where condition, a bool, is true, else b; all three broadcast

/// 0-d, of x's dtype and device. Throws, naming op, where that dtype cannot hold the number.
Tensor scalar_like(Scalar value, const Tensor& x, const char* op = "scalar_like");
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }
inline Tensor operator+(const Tensor& a, Scalar b) { return add(a, scalar_like(b, a, "add")); }
inline Tensor operator+(Scalar a, const Tensor& b) { return add(scalar_like(a, b, "add"), b); }
inline Tensor operator-(const Tensor& a, Scalar b) { return sub(a, scalar_like(b, a, "sub")); }
inline Tensor operator-(Scalar a, const Tensor& b) { return sub(scalar_like(a, b, "sub"), b); }
inline Tensor operator*(const Tensor& a, Scalar b) { return mul(a, scalar_like(b, a, "mul")); }
inline Tensor operator*(Scalar a, const Tensor& b) { return mul(scalar_like(a, b, "mul"), b); }
inline Tensor operator/(const Tensor& a, Scalar b) { return div(a, scalar_like(b, a, "div")); }
inline Tensor operator/(Scalar a, const Tensor& b) { return div(scalar_like(a, b, "div"), b); }
inline Tensor pow(Scalar a, const Tensor& b) { return pow(scalar_like(a, b, "pow"), b); }
inline Tensor maximum(const Tensor& a, Scalar b) { return maximum(a, scalar_like(b, a, "maximum")); }
inline Tensor minimum(const Tensor& a, Scalar b) { return minimum(a, scalar_like(b, a, "minimum")); }
inline Tensor less(const Tensor& a, Scalar b) { return less(a, scalar_like(b, a, "less")); }
inline Tensor less_equal(const Tensor& a, Scalar b) { return less_equal(a, scalar_like(b, a, "less_equal")); }
inline Tensor greater(const Tensor& a, Scalar b) { return greater(a, scalar_like(b, a, "greater")); }
inline Tensor greater_equal(const Tensor& a, Scalar b) { return greater_equal(a, scalar_like(b, a, "greater_equal")); }
inline Tensor equal(const Tensor& a, Scalar b) { return equal(a, scalar_like(b, a, "equal")); }
inline Tensor not_equal(const Tensor& a, Scalar b) { return not_equal(a, scalar_like(b, a, "not_equal")); }
inline Tensor where(const Tensor& condition, const Tensor& a, Scalar b) { return where(condition, a, scalar_like(b, a, "where")); }
inline Tensor where(const Tensor& condition, Scalar a, const Tensor& b) { return where(condition, scalar_like(a, b, "where"), b); }
Tensor clamp(const Tensor& x, Scalar low, Scalar high);  // at an end half of the gradient passes, as maximum() has it
Tensor logical_not(const Tensor& x);  // bool: true where x is 0 or false; of any dtype, as the next two
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);

// ---- creation (ops_create.cpp), beside that of core/tensor.h ----------------------------------------------------------
Tensor eye(Index n, Place place = {});  // [n, n]: 1 on the diagonal, 0 beside it
/// `count` numbers of a floating dtype, from `first` to `last`, evenly apart; of one, `first`.
Tensor linspace(double first, double last, Index count, Place place = {});

// ---- reductions (ops_reduce.cpp) ------------------------------------------------------------------------------------
/// Over `axes`, or all where none are named; these go, or stay with size 1 (keep_dims). Integers and bool: sum in i64, modulo 2^64.
Tensor sum(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);
Tensor mean(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);  // floating dtypes, as var, norm and logsumexp; NaN of no elements
Tensor max(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);  // ties share the gradient; throws on an empty axis, as min does
Tensor min(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);
Tensor var(const Tensor& x, const Axes& axes = {}, bool keep_dims = false, int correction = 1);  // divides by n - correction
Tensor stddev(const Tensor& x, const Axes& axes = {}, bool keep_dims = false, int correction = 1);  // the root of var
/// Euclidean. The sum of squares is to lie within the wide dtype, as in var and stddev that of squared deviations: of f32 and bf16, sizes of 1e-19 to
/// 1e19. Beyond, the root is 0 or inf.
Tensor norm(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);
Tensor any(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);  // bool: whether an element is not 0 or false; false of none
Tensor all(const Tensor& x, const Axes& axes = {}, bool keep_dims = false);  // whether no element is; true of none
Tensor logsumexp(const Tensor& x, int axis, bool keep_dims = false);  // -inf of no elements
Tensor argmax(const Tensor& x, int axis, bool keep_dims = false);  // i64, not differentiable
Tensor argmin(const Tensor& x, int axis, bool keep_dims = false);
Tensor cumsum(const Tensor& x, int axis);  // inclusive, of x's shape
Tensor sum_to(const Tensor& x, const Shape& shape);  // sums x down to `shape`: the adjoint of expand

// ---- shape (ops_shape.cpp): views where strides allow, no copies ----------------------------------------------------
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor reshape(const Tensor& x, std::initializer_list<Index> sizes);  // one size may be -1
Tensor flatten(const Tensor& x, int first = 0, int last = -1);  // makes one axis of those from first to last; 0-d becomes [1]
Tensor permute(const Tensor& x, std::initializer_list<int> axes);
Tensor permute(const Tensor& x, std::span<const int> axes);  // axis i of the result is axis axes[i] of x
Tensor transpose(const Tensor& x, int a = -2, int b = -1);
Tensor squeeze(const Tensor& x, int axis);    // drops an axis of size 1; throws on another size
Tensor unsqueeze(const Tensor& x, int axis);  // a new axis of size 1, which is number `axis` of the result
Tensor expand(const Tensor& x, const Shape& shape);  // repeats axes of size 1, and all of x along new leading ones: NumPy's broadcast_to
Tensor expand(const Tensor& x, std::initializer_list<Index> sizes);
/// Python's x[start:stop:step] on one axis; stop beyond the end is cut, negative values count from the end.
Tensor slice(const Tensor& x, int axis, Index start, Index stop, Index step = 1);
Tensor select(const Tensor& x, int axis, Index index);  // drops the axis
Tensor cat(std::span<const Tensor> xs, int axis);
Tensor stack(std::span<const Tensor> xs, int axis);
inline Tensor cat(std::initializer_list<Tensor> xs, int axis) { return cat(std::span(xs.begin(), xs.size()), axis); }
inline Tensor stack(std::initializer_list<Tensor> xs, int axis) { return stack(std::span(xs.begin(), xs.size()), axis); }
Tensors split(const Tensor& x, Index size, int axis);  // the last part may be smaller
Tensor pad(const Tensor& x, int axis, Index before, Index after, double value = 0);  // of an integer dtype: a value that it has
Tensor flip(const Tensor& x, int axis);
/// Element i goes to i + shift, around the end. First the axis, as everywhere here: NumPy's and PyTorch's roll take the shift first.
Tensor roll(const Tensor& x, int axis, Index shift);
/// One axis after the other: roll(x, {{1, -3}, {2, -3}}).
Tensor roll(const Tensor& x, std::initializer_list<std::pair<int, Index>> axes_and_shifts);
Tensor tril(const Tensor& x, Index diagonal = 0);  // of the last two axes: zero right of the diagonal; 1 is the one above the main, -1 below
Tensor triu(const Tensor& x, Index diagonal = 0);  // zero left of it
Tensor contiguous(const Tensor& x);  // x itself where it is
Tensor clone(const Tensor& x);       // contiguous, in memory of its own
Tensor cast(const Tensor& x, DType dtype);  // gradient is cast back
Tensor to(const Tensor& x, Device device);
using Sizes = std::initializer_list<std::pair<const char*, Index>>;
/// einops' rearrange: rearrange(x, "b t (h d) -> b h t d", {{"h", 8}}).
Tensor rearrange(const Tensor& x, std::string_view pattern, Sizes sizes = {});

// ---- products and convolution (ops_linalg.cpp, ops_conv.cpp) --------------------------------------------------------
Tensor matmul(const Tensor& a, const Tensor& b);  // NumPy's @: 1-d operands and broadcast batches included
Tensor unfold(const Tensor& x, const Window& window);  // [B, C, h, w] -> [B, C kh kw, oh ow]
/// Its adjoint, [B, C kh kw, oh ow] -> [B, C, height, width]: what overlaps is added.
Tensor fold(const Tensor& columns, const Window& window, Index height, Index width);
/// x[B, C, h, w], weight[O, C / groups, kh, kw], bias[O] or empty -> [B, O, oh, ow]. Kernel sizes come from weight.
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, Window window, Index groups = 1);

// ---- indexing (ops_index.cpp): index tensors are i64 ------------------------------------------------------------------
// Each throws where an index lies outside its axis.
/// y[.., i, ..] = x[.., index[.., i, ..], ..]: of index's shape, whose sizes are at most x's but along `axis`.
Tensor gather(const Tensor& x, int axis, const Tensor& index);
/// x with source, of index's shape, added at those places, in one order on any number of threads.
Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source);
/// The slices of x that index [n] names: along `axis` of size n.
Tensor index_select(const Tensor& x, int axis, const Tensor& index);
Tensor embedding(const Tensor& table, const Tensor& index);  // [V, C], [...] -> [..., C]
Tensor one_hot(const Tensor& index, Index classes, DType dtype = DType::f32);  // [...] -> [..., classes]

// ---- fused (fused_*.cpp): each owns its composition -------------------------------------------------------------------
/// exp(x) over its sum along the axis, and its logarithm; NaN where all along it is -inf.
Tensor softmax(const Tensor& x, int axis = -1);
Tensor log_softmax(const Tensor& x, int axis = -1);
/// (x - mean) / sqrt(variance + eps) weight + bias, over the last axis of x[..., C] (Ba et al., arXiv 1607.06450); weight and bias [C] or empty. The sum
/// of squares is to lie within the wide dtype, as in norm(): of f32 rows beyond, the result depends on the kernel. So for rms_norm.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps = 1e-6);
/// x / sqrt(mean of x^2 + eps) weight (Zhang and Sennrich, arXiv 1910.07467).
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps = 1e-6);
/// x[..., k] weight[n, k]^T + bias[n] (+ residual[..., n]); bias and residual may be empty.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Tensor& residual = {});
/// linear(gelu(linear(x, w1, b1)), w2, b2) + residual: keeps only the pre-activation between its two products.
Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, const Tensor& residual = {});
/// Mean over rows of the cross-entropy. logits [..., classes]; targets i64 [...] or floating [..., classes] (soft).
/// The losses of bf16 are f32. A class whose target and smoothing are 0 adds nothing, whatever its logit: -inf too.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, double label_smoothing = 0);
/// Mean over all elements of (x - target)^2; f32 of bf16. Throws where shapes, dtypes or devices differ: it does not broadcast.
Tensor mse_loss(const Tensor& x, const Tensor& target);
/// Multiplies by a mask drawn from `stream`: 0 with probability p, else 1/(1-p). p in [0, 1].
Tensor dropout(const Tensor& x, double p, RandomStream stream);

struct AttentionOptions {
  Scoring scoring = {};
  double scale = 0;  // 0: 1/sqrt(d)
  bool causal = false;   // row i sees keys j <= i + M - N: the last row sees all
  /// bool [B, M], or empty. true: visible, false: hidden (the opposite of key_padding_mask in torch.nn.MultiheadAttention)
  Tensor key_mask = {};
  double dropout = 0;
  std::optional<RandomStream> stream = {};  // what dropout draws from: RandomScope::next(), anew for each call; none: dropout above 0 throws
  Tensor stats = {};  // f64 [B, H, attention_stats], or empty; the forward and the backward pass write into it
  /// Above 0: per batch and head A is multiplied by min(1, clamp_fro / ||A||_F), after the masks and before dropout,
  /// differentiably. The slow path: the matrix is formed, forward and backward.
  double clamp_fro = 0;
  AttentionForm form = AttentionForm::automatic;  // linear throws where the scoring, dropout or the clamp needs A itself
};
/// Throws on a scoring that means nothing and on options outside their range.
void check_attention_options(const char* op, const AttentionOptions& options);
/// Throws where options.form is linear and there is no linear form for these options and heads of this width.
void check_attention_form(const char* op, const AttentionOptions& options, Index width);
/// q[B, H, N, d], k[B, H, M, d], v[B, H, M, e] -> [B, H, N, e]; see norma::Attention for the formula. The output's memory is
/// laid out [B, N, H, e], so that merging the heads is a view.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options = {});
/// The same from qkv[B, N, 3, H, d], as a linear layer leaves it: no permute, no copy, one gradient tensor. Returns [B, N, H d].
Tensor attention_packed(const Tensor& qkv, const AttentionOptions& options = {});
/// A itself [B, H, N, M], by the composition: for looking at, and for penalties on its norm. `scores` S already scaled.
/// Before dropout; options.scale, dropout and form are not used.
Tensor attention_weights(const Tensor& scores, const AttentionOptions& options);

}  // namespace norma
