// Derivatives: grad() is the primitive, backward() is grad() into the leaves' .grad(). Threads may share leaves, each with a graph of
// its own, and call grad(); backward() writes into the leaves, so one thread at a time.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>

#include "autograd/node.h"
#include "core/random.h"

namespace norma {

struct GradOptions {
  /// Record the derivative too, so that it can be differentiated again. backward() then makes a reference cycle between leaf and
  /// gradient; set_grad({}) breaks it. grad() makes none.
  bool create_graph = false;
  bool retain_graph = false;  // keep the graph for another sweep (implied by create_graph)
};

/// d<y, seed>/dx for each x. y must have one element unless a seed of its shape and dtype is given. An x that y was not
/// computed from gets zeros, where PyTorch throws: the second derivative of something linear is zero, and no error. Two slips give zeros too:
///   - a view made anew: after t = select(p, 1, 0) compute with t and differentiate by t; select(p, 1, 0) a second time is another tensor;
///   - a leaf that was used before its track().
/// Throws when the graph was freed by an earlier sweep, or a saved tensor was changed in place. What is returned may share memory
/// with one another and with the seed: clone() before changing one in place. Twice:
///   const Tensor slope = grad(pow(x, 3), x, {.create_graph = true});  // 3 x^2
///   const Tensor curvature = grad(slope, x);                          // 6 x
/// and of several: grad(y, {x, w}, {.create_graph = true}), with a seed grad(y, {x, w}, seed).
Tensors grad(const Tensor& y, std::span<const Tensor> xs, const Tensor& seed = {}, GradOptions options = {});
inline Tensors grad(const Tensor& y, std::initializer_list<Tensor> xs, const Tensor& seed = {}, GradOptions options = {}) {
  return grad(y, std::span(xs.begin(), xs.size()), seed, options);
}
inline Tensors grad(const Tensor& y, std::span<const Tensor> xs, GradOptions options) { return grad(y, xs, {}, options); }
inline Tensors grad(const Tensor& y, std::initializer_list<Tensor> xs, GradOptions options) { return grad(y, xs, {}, options); }
template <std::same_as<Tensor> T>  // of one tensor; in braces, {x}, it is a list
Tensor grad(const Tensor& y, const T& x, GradOptions options = {}) {
  return grad(y, std::span(&x, 1), {}, options)[0];
}

/// Adds d loss / d leaf into .grad() of every tracked leaf that loss depends on.
void backward(const Tensor& loss, GradOptions options = {});

using Function = std::function<Tensor(std::span<const Tensor>)>;

/// Activation checkpointing: computes f, drops its intermediates and runs it again for the derivative. Gradients flow through `inputs` and the tracked
/// leaves that f holds, such as a module's parameters. Random draws of the second run equal the first's; taps inside f see both runs, and what f
/// writes, such as running statistics, is written twice. Throws where f returns another shape or dtype when it runs again, and where it holds what was
/// computed from tracked tensors outside it: that is to be an input.
Tensor checkpoint(const Function& f, std::span<const Tensor> inputs);
inline Tensor checkpoint(const Function& f, std::initializer_list<Tensor> inputs) {
  return checkpoint(f, std::span(inputs.begin(), inputs.size()));
}

/// Draws inside a training step: the k-th is of stream_id(step, k), k counting from 0.
class RandomScope {
 public:
  [[nodiscard]] RandomScope(std::uint64_t seed, std::uint64_t step);
  /// For a step that is captured: the k-th draw is of the stream whose id stands in ids[k] when the step is replayed. `ids` is i64
  /// [n], contiguous, on the device that draws, and outlives the scope; next() throws where n is too few.
  [[nodiscard]] RandomScope(std::uint64_t seed, const Tensor& ids);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  /// The next stream of the innermost scope of this thread; throws where there is none.
  static RandomStream next();
  static bool active();
  static std::uint64_t drawn();          // how many streams were taken
  static void rewind(std::uint64_t drawn);  // checkpoint(): draw the same again

 private:
  RandomScope* outer_;
  std::uint64_t seed_, step_ = 0, drawn_ = 0;
  Tensor ids_;
};

/// While alive, ops of this thread take indices and class labels as they are: whoever declares it has checked them. For a step that is
/// captured, where none can wait for the answer of a check.
class TrustIndices {
 public:
  [[nodiscard]] TrustIndices();
  ~TrustIndices();
  TrustIndices(const TrustIndices&) = delete;
  static bool active();

 private:
  bool before_;
};

// ---- checking ------------------------------------------------------------------------------------------------------
struct GradcheckReport {
  bool ok = true;
  double worst = 0;       // largest |analytic - numeric| / (atol + rtol |numeric|)
  std::string where;      // "input 1 element 7 / output 3: analytic ..., numeric ..."
  Index kinks = 0;        // entries where f has a kink: between the derivatives of both sides, and not in worst
};
struct GradcheckOptions {
  double step = 1e-3;  // 5-point stencil; finer where a kink of f, as relu's, may lie within it
  double rtol = 1e-8, atol = 1e-9;
};
/// Full Jacobian of f at f64 inputs by a 5-point stencil against vjp's with unit cotangents, all tracked inputs. f computes from its arguments:
/// only they are moved. Of a module: nn::Linear m = l; m.weight = in[0]; return m(x);
GradcheckReport gradcheck(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options = {});
/// The same of (x, v) -> v^T J: second derivatives.
GradcheckReport gradgradcheck(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options = {1e-3, 1e-6, 1e-7});

}  // namespace norma
