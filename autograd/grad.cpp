#include "autograd/grad.h"

#include <map>

#include "autograd/anomaly.h"
#include "autograd/dispatch.h"
#include "autograd/graph.h"
#include "autograd/late_sums.h"

namespace norma {
namespace {

/// All nodes on a path from `root` to a node of `targets`: those the sweep must visit. Iterative depth-first search.
NodeSet nodes_between(Node* root, const NodeSet& targets) {
  NodeSet wanted = targets, seen{root};
  std::vector<std::pair<Node*, std::size_t>> stack{{root, 0}};
  while (!stack.empty()) {
    auto& [n, next] = stack.back();
    if (next < n->inputs.size()) {
      Node* input = n->inputs[next++].get();
      if (input && seen.insert(input).second) stack.push_back({input, 0});
      continue;
    }
    for (auto& input : n->inputs)
      if (input && wanted.count(input.get())) wanted.insert(n);
    stack.pop_back();
  }
  return wanted;
}

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

/// Sweeps from y in order of falling creation number. finished(node, gradient, late) sees each node's complete gradient, and settles it before it
/// reads its values.
template <class Finished>
void sweep(const Tensor& y, const Tensor& seed, const NodeSet& wanted, bool create_graph, bool retain, Finished finished) {
  struct Pending {
    std::shared_ptr<Node> node;
    Tensor gradient;
  };
  std::map<std::uint64_t, Pending, std::greater<>> pending;
  auto root = node_of(y);
  pending[root->number] = {root, seed};
  root = nullptr;
  GradMode mode(create_graph);
  LateSums late;
  while (!pending.empty()) {
    Pending now = std::move(pending.begin()->second);
    pending.erase(pending.begin());
    Node& n = *now.node;
    if (!n.hooks.empty()) late.finish();  // they may read any gradient
    for (const auto hooks = n.hooks; const auto& hook : hooks) look(*hook, now.gradient, n);  // one may take itself off
    finished(n, now.gradient, late);
    bool further = false;
    for (auto& input : n.inputs) further |= input && wanted.count(input.get());
    if (!further) continue;
    if (n.released) fail("backward: the graph of {} was already freed by an earlier backward(); pass retain_graph", n.name);
    const bool first_order = !create_graph && n.first_order;
    Tensors arrived;
    if (first_order) {
      for (const auto& input : n.inputs) {
        const auto found = input ? pending.find(input->number) : pending.end();
        arrived.push_back(found == pending.end() ? Tensor() : found->second.gradient);
        late.settle(arrived.back());
      }
    }
    Ctx ctx(n, &wanted, arrived);
    const AnomalyPlace place(AnomalyScope::active() ? AnomalyHooks::place_of(n) : nullptr);
    Tensors gradients = first_order ? n.first_order(ctx, now.gradient) : n.vjp(ctx, now.gradient);
    if (gradients.size() != n.inputs.size())
      fail("backward: {} has {} inputs, but its rule returned {} gradients", n.name, n.inputs.size(), gradients.size());
    if (AnomalyScope::active()) {
      late.finish();
      AnomalyHooks::went_back(n, ctx, now.gradient, gradients);
    }
    now.gradient = {};
    if (!retain) n.released = true, n.release();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const auto& input = n.inputs[i];
      if (!input || !gradients[i] || !wanted.count(input.get())) continue;
      check_gradient(n, i, gradients[i], *input);
      auto& slot = pending[input->number];
      slot.node = input;
      if (!slot.gradient || ctx.took(i)) {
        slot.gradient = std::move(gradients[i]);
        continue;
      }
      const Tensor before = slot.gradient;
      late.settle(before), late.settle(gradients[i]);
      slot.gradient = add(before, gradients[i]);
      if (AnomalyScope::active()) AnomalyHooks::summed(*input, before, gradients[i], slot.gradient);
    }
  }
  late.finish();
}

/// g in memory that nothing else reads or writes: another leaf may have the same gradient, and either is scaled in place.
Tensor of_its_own(const Tensor& g, LateSums& late) {
  const bool shared = g.impl().use_count() > 1 || g.storage().use_count() > 1;
  if (!shared && g.is_contiguous()) return g.detach();
  late.settle(g);
  return copy_of(g);
}

Tensor check_seed(const char* op, const Tensor& y, const Tensor& seed, bool takes_seed) {
  check_present(op, y);
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
  NodeSet targets;
  std::map<const Node*, Tensor> found;
  for (const Tensor& x : xs) {
    check_present("grad", x);
    auto n = node_of(x);
    if (!n) fail("grad: the tensor of shape {} to differentiate by is not tracked; call track() before using it", x.shape());
    targets.insert(n.get());
  }
  const NodeSet wanted = nodes_between(node_of(y).get(), targets);
  sweep(y, start, wanted, options.create_graph, options.create_graph || options.retain_graph,
        [&](const Node& n, const Tensor& g, LateSums&) {
          if (targets.count(&n)) found[&n] = g;
        });
  Tensors out;
  for (const Tensor& x : xs) {
    auto it = found.find(node_of(x).get());
    Tensor g = it == found.end() ? zeros(x.shape(), place_of(x)) : it->second;
    if (options.create_graph && !g.tracked())  // of something linear: its own derivative is zero, and no error
      g = record(g.detach(), {x}, {"constant", keep_nothing, [](const Ctx&, const Tensor&) -> Tensors { return {Tensor()}; }});
    out.push_back(g);
  }
  return out;
}

void backward(const Tensor& loss, GradOptions options) {
  const Tensor start = check_seed("backward", loss, {}, false);
  NodeSet leaves, seen;
  std::vector<Node*> stack{node_of(loss).get()};
  while (!stack.empty()) {
    Node* n = stack.back();
    stack.pop_back();
    if (!seen.insert(n).second) continue;
    if (n->inputs.empty()) leaves.insert(n);
    for (auto& input : n->inputs)
      if (input) stack.push_back(input.get());
  }
  const NodeSet wanted = nodes_between(node_of(loss).get(), leaves);
  sweep(loss, start, wanted, options.create_graph, options.create_graph || options.retain_graph,
        [&](const Node& n, const Tensor& g, LateSums& late) {
          auto impl = n.leaf.lock();
          if (!impl) return;
          Tensor leaf = Tensor::wrap(impl);
          if (!leaf.tracked()) return;  // not any more
          if (leaf.grad()) late.settle(g);
          leaf.set_grad(leaf.grad() ? add(leaf.grad(), g) : options.create_graph ? g : of_its_own(g, late));
        });
}

}  // namespace norma
