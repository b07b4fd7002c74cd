#include "autograd/grad.h"

#include <algorithm>
#include <queue>

#include "autograd/anomaly.h"
#include "autograd/dispatch.h"
#include "autograd/graph.h"
#include "autograd/late_sums.h"
#include "autograd/sweep.h"

namespace norma {
namespace {

/// The nodes that `root` was computed from, itself first, then in falling order of creation: each after all that was computed from it.
class Visits {
 public:
  explicit Visits(std::shared_ptr<Node> root) : root_(std::move(root)) {
    const auto earlier = [](const Node* a, const Node* b) { return a->number < b->number; };
    std::priority_queue<Node*, std::vector<Node*>, decltype(earlier)> ahead(earlier);
    for (ahead.push(root_.get()); !ahead.empty();) {
      Node* n = ahead.top();
      ahead.pop();
      if (!all_.empty() && all_.back().node == n) continue;  // on several ways: they meet here
      all_.push_back({n});
      for (const auto& input : n->inputs)
        if (input) ahead.push(input.get());
    }
  }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }
  /// Null where the root was not computed from n.
  Visit* find(const Node& n) {
    const auto at = std::lower_bound(begin(), end(), n.number, [](const Visit& v, std::uint64_t number) { return v.node->number > number; });
    return at != end() && at->node == &n ? &*at : nullptr;
  }
  /// Once all targets are known.
  void mark_wanted() {
    for (auto v = all_.rbegin(); v != all_.rend(); ++v) {
      v->wanted = v->target;
      for (const auto& input : v->node->inputs) v->wanted |= input && find(*input)->wanted;
    }
  }

 private:
  std::shared_ptr<Node> root_;  // keeps all others
  std::vector<Visit> all_;
};

void check_gradient(const Node& n, std::size_t i, const Tensor& g, const Node& input) {
  if (g.shape() != input.shape)
    fail("backward: {} returned a gradient of shape {} for its input {}, expected {}", n.name, g.shape(), i, input.shape);
  if (place_of(g) != input.place)
    fail("backward: {} returned a gradient of {} on {} for its input {}, expected {} on {}", n.name, g.dtype(), name(g.device()), i,
         input.place.dtype, name(input.place.device));
}

/// Lets a hook look at the gradient of what n computed. Others may share its memory.
void look(const Hook& hook, const Tensor& gradient, const Node& n) {
  const auto version = gradient.storage()->version();
  hook(gradient.detach());
  if (gradient.storage()->version() != version)
    fail("on_gradient: the hook changed the gradient of {} {} in place, and other gradients may share its memory; clone() it and write into the clone", n.name,
         n.shape);
}

/// Where the gradients of n's inputs go, into `to`; whether one is asked for at all.
bool any_wanted(Visits& visits, const Node& n, Wanted& to) {
  to.clear();
  for (const auto& input : n.inputs) {
    Visit* const next = input ? visits.find(*input) : nullptr;
    to.push_back(next && next->wanted ? next : nullptr);
  }
  return std::any_of(to.begin(), to.end(), [](const Visit* next) { return next != nullptr; });
}

/// What has arrived there, for a rule that adds to it. Of a tensor that is several inputs one has it.
void offer(const Wanted& to, Tensors& arrived, LateSums& late) {
  for (auto next = to.begin(); next != to.end(); ++next) {
    const bool first = std::find(to.begin(), next, *next) == next;
    arrived.push_back(*next && first ? (*next)->gradient : Tensor());
    late.settle(arrived.back());
  }
}

/// Adds the gradients that n's rule returned to what has arrived, but for those that have it in them.
void hand_on(const Node& n, const Ctx& ctx, Tensors& gradients, const Wanted& to, LateSums& late) {
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!to[i] || !gradients[i]) continue;
    const Node& input = *to[i]->node;
    check_gradient(n, i, gradients[i], input);
    Tensor& sum = to[i]->gradient;
    if (!sum || ctx.took(i)) {
      sum = std::move(gradients[i]);
      continue;
    }
    const Tensor before = sum;
    late.settle(before), late.settle(gradients[i]);
    sum = add(before, gradients[i]);
    if (AnomalyScope::active()) AnomalyHooks::summed(input, before, gradients[i], sum);
  }
}

/// Sweeps from the root, which `seed` is the gradient of. finished(visit, gradient, late) sees each node's complete gradient, and settles it before it
/// reads its values.
template <class Finished>
void sweep(Visits& visits, const Tensor& seed, bool create_graph, bool retain, Finished finished) {
  const SweepScope here;
  GradMode mode(create_graph);
  LateSums late;
  Wanted to;
  Tensors arrived;
  visits.begin()->gradient = seed;
  for (Visit& visit : visits) {
    if (!visit.gradient) continue;
    Node& n = *visit.node;
    Tensor gradient = std::move(visit.gradient);
    if (!n.hooks.empty()) late.finish();  // they may read any gradient
    for (const auto hooks = n.hooks; const auto& hook : hooks) look(*hook, gradient, n);  // one may take itself off
    finished(visit, gradient, late);
    if (!any_wanted(visits, n, to)) continue;
    if (n.released) fail("backward: the graph of {} was already freed by an earlier backward(); pass retain_graph", n.name);
    const bool first_order = !create_graph && n.first_order;
    if (first_order) offer(to, arrived, late);
    Ctx ctx(n, &to, arrived);
    const AnomalyPlace place(AnomalyScope::active() ? AnomalyHooks::place_of(n) : nullptr);
    Tensors gradients = first_order ? n.first_order(ctx, gradient) : Tensors();
    if (gradients.empty()) gradients = n.vjp(ctx, gradient);
    if (gradients.size() != n.inputs.size())
      fail("backward: {} has {} inputs, but its rule returned {} gradients", n.name, n.inputs.size(), gradients.size());
    if (AnomalyScope::active()) {
      late.finish();
      AnomalyHooks::went_back(n, ctx, gradient, gradients);
    }
    gradient = {};
    if (!retain) n.released = true, n.release();
    hand_on(n, ctx, gradients, to, late);
    arrived.clear();  // of_its_own counts who holds a gradient
  }
  late.finish();
}

/// g in memory that nothing else reads or writes: another leaf may have the same gradient, and either is scaled in place.
Tensor of_its_own(const Tensor& g, LateSums& late) {
  const bool shared = g.impl().use_count() > 1 || g.storage().use_count() > 1;
  if (!shared && g.is_contiguous()) return g.tracked() ? g.detach() : g;
  late.settle(g);
  return copy_of(g);
}

Tensor check_seed(const char* op, const Tensor& y, const Tensor& seed, bool takes_seed) {
  check_present(op, y, takes_seed ? "the result" : "the loss");
  if (!y.tracked())
    fail("{}: the result takes part in no graph; track() the leaves before computing it, compute it outside of NoGrad, and a gradient that is to be "
         "differentiated again with .create_graph", op);
  if (seed) {
    if (seed.shape() != y.shape()) fail("{}: seed of shape {} for an output of shape {}", op, seed.shape(), y.shape());
    if (place_of(seed) != place_of(y))
      fail("{}: seed of {} on {} for an output of {} on {}; convert with cast() and to()", op, seed.dtype(), name(seed.device()), y.dtype(),
           name(y.device()));
    return seed;
  }
  if (y.numel() != 1 && takes_seed) fail("{}: output has shape {}; pass a seed or reduce to a scalar", op, y.shape());
  if (y.numel() != 1) fail("{}: the loss has shape {}; reduce it to a scalar with sum() or mean(), or use grad(), which takes a seed", op, y.shape());
  return full(y.shape(), 1, place_of(y));
}

}  // namespace

Tensors grad(const Tensor& y, std::span<const Tensor> xs, const Tensor& seed, GradOptions options) {
  const Tensor start = check_seed("grad", y, seed, true);
  Visits visits(node_of(y));
  std::vector<Visit*> of_x;
  of_x.reserve(xs.size());
  for (const Tensor& x : xs) {
    check_present("grad", x, "what to differentiate by");
    const auto n = node_of(x);
    if (!n) fail("grad: the tensor of shape {} to differentiate by is not tracked; call track() before using it", x.shape());
    of_x.push_back(visits.find(*n));
    if (of_x.back()) of_x.back()->target = true;
  }
  visits.mark_wanted();
  sweep(visits, start, options.create_graph, options.create_graph || options.retain_graph, [](Visit& visit, const Tensor& g, LateSums&) {
    if (visit.target) visit.gradient = g;
  });
  Tensors out;
  out.reserve(xs.size());
  for (std::size_t i = 0; i < xs.size(); ++i) {
    const Tensor& x = xs[i];
    Tensor g = of_x[i] && of_x[i]->gradient ? of_x[i]->gradient : zeros(x.shape(), place_of(x));
    if (options.create_graph && !g.tracked())  // of something linear: its own derivative is zero, and no error
      g = record(g.detach(), {x}, {"constant", keep_nothing, [](const Ctx&, const Tensor&) -> Tensors { return {Tensor()}; }});
    out.push_back(g);
  }
  return out;
}

void backward(const Tensor& loss, GradOptions options) {
  const Tensor start = check_seed("backward", loss, {}, false);
  Visits visits(node_of(loss));
  for (Visit& visit : visits) visit.target = visit.node->inputs.empty();
  visits.mark_wanted();
  sweep(visits, start, options.create_graph, options.create_graph || options.retain_graph,
        [&](const Visit& visit, const Tensor& g, LateSums& late) {
          auto impl = visit.node->leaf.lock();
          if (!impl) return;
          Tensor leaf = Tensor::wrap(impl);
          if (!leaf.tracked()) return;  // not any more
          if (leaf.grad()) late.settle(g);
          leaf.set_grad(leaf.grad() ? add(leaf.grad(), g) : options.create_graph ? g : of_its_own(g, late));
        });
}

}  // namespace norma
