// What the graph is made of: one Node for each recorded op, holding how to go back. Ops see only `record` and `Ctx`.
#pragma once

#include <concepts>
#include <functional>
#include <span>
#include <type_traits>

#include "core/tensor.h"

namespace norma {

struct Node;

/// What a vjp may ask of the op it belongs to.
class Ctx {
 public:
  Ctx(const Node& node, const void* wanted, std::span<const Tensor> arrived = {}) : node_(node), wanted_(wanted), arrived_(arrived) {}
  /// The i-th tensor the rule kept (inputs in order, then the output), attached to the graph again.
  /// Throws when it was changed in place since, or when the graph was freed.
  Tensor saved(int i) const;
  /// The data of an input that a rule kept by itself, attached to the graph again; a leaf, and what was not tracked, as it is.
  Tensor attached(int input, const Tensor& kept) const;
  /// Whether the gradient of this input is asked for: skip the work where not.
  bool needs(int input) const;
  /// What other ways through the graph have brought to this input's gradient so far, for a fused rule that can add it to its own in the
  /// same pass over memory; it then says so by take(). Empty: nothing yet, or the tensor is an earlier input too.
  Tensor arrived(int input) const { return arrived_.empty() ? Tensor() : arrived_[static_cast<std::size_t>(input)]; }
  void take(int input) const { taken_ |= 1u << input; }  // one of the first 32
  bool took(std::size_t input) const { return input < 32 && (taken_ >> input & 1) != 0; }

 private:
  const Node& node_;
  const void* wanted_;
  std::span<const Tensor> arrived_;
  mutable unsigned taken_ = 0;
};

/// The vector-Jacobian product: gradient of the output in, one gradient for each input out (an empty Tensor: none), of its shape and dtype.
using Vjp = std::function<Tensors(const Ctx&, const Tensor& g)>;

/// Which tensors a rule keeps: bit i for input i, 0 to 30 (the usual ones have names), bit 31 for the output.
enum Keep : unsigned { keep_nothing = 0, keep0 = 1, keep1 = 2, keep_output = 1u << 31 };
inline constexpr unsigned keep_inputs(int n) { return (1u << n) - 1; }

struct Rule {
  const char* name;
  unsigned keep = keep_nothing;
  Vjp vjp;               // written with recorded ops: differentiable to any order
  Vjp first_order = {};  // optional, faster, used only where create_graph is off
};

/// The single interception point of the graph: says that y was computed from `inputs`. Returns y, attached if gradients are
/// on and an input is tracked. Throws where y is not fresh (an input itself, or attached already), and where the rule has no vjp.
Tensor record(Tensor y, std::span<const Tensor> inputs, Rule rule);
Tensor record(Tensor y, std::initializer_list<Tensor> inputs, Rule rule);

/// A fast op that owns the plain composition it replaces. The composition is its fallback, its documentation, its test oracle
/// and its road to higher derivatives.
struct Fused {
  const char* name;
  std::function<Tensor(std::span<const Tensor>)> composite;
  /// Fills the output, or returns an empty Tensor to decline. `extra` receives statistics that only `vjp` may use.
  std::function<Tensor(std::span<const Tensor>, Tensors& extra)> forward;
  /// First order, from the inputs, the output and the extras; an empty vector declines. One that declines a gradient that is not contiguous is
  /// asked again with a contiguous copy; then the composition is used.
  std::function<Tensors(const Ctx&, std::span<const Tensor> inputs, const Tensor& y, const Tensors& extra, const Tensor& g)> vjp;
  /// Where given and true after `vjp`, the composition is differentiated as well, for its hooks alone: the gradients stay those of `vjp`.
  std::function<bool()> composes_too = {};
};
Tensor apply(const Fused& op, std::span<const Tensor> inputs);
Tensor apply(const Fused& op, std::initializer_list<Tensor> inputs);

/// While alive, fused ops run their compositions (on this thread): how tests hold one against the other.
class NoFusion {
 public:
  [[nodiscard]] NoFusion();
  ~NoFusion();
  NoFusion(const NoFusion&) = delete;

 private:
  bool before_;
};

bool grad_enabled();
class GradMode {  // sets recording on this thread, restores it at the end of the scope
 public:
  [[nodiscard]] explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;

 private:
  bool old_;
};
class NoGrad : public GradMode {
 public:
  [[nodiscard]] NoGrad() : GradMode(false) {}
};

/// Calls the hook with x's gradient in each backward sweep that reaches x, once it is complete. The hook looks and returns nothing: it
/// cannot replace g, and a sweep throws where it changed g in place. What it computes is not recorded, but under create_graph. Returns
/// what takes the hook off again, which may be called at any time, or never. Throws where x takes part in no graph. A hook lives as long
/// as x's graph: one that holds x, or what is computed from it, keeps that graph and so itself, until it is taken off. See nn/tap.h.
std::function<void()> on_gradient(const Tensor& x, std::function<void(const Tensor& g)> hook);
template <class F>
  requires(std::invocable<F&, const Tensor&> && !std::is_void_v<std::invoke_result_t<F&, const Tensor&>>)
std::function<void()> on_gradient(const Tensor&, F&&) = delete;  // a hook returns nothing: what it returned would replace no gradient

/// Nodes alive on all threads: a leak test reads it.
std::int64_t live_nodes();
/// How often kernels declined a fused op, forwards or backwards, so that its composition ran: a step of a model of ours should not.
std::int64_t declined_fusions();

}  // namespace norma
