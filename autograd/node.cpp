#include "autograd/node.h"

#include <atomic>
#include <bit>
#include <mutex>
#include <utility>

#include "autograd/anomaly.h"
#include "autograd/graph.h"
#include "autograd/grad.h"
#include "autograd/ops.h"
#include "core/recording.h"

namespace norma {
namespace {

thread_local bool fusing = true;
std::atomic<std::uint64_t> next_number{1};
std::atomic<std::int64_t> alive{0}, declined{0};

// Teardown is iterative: a dying node hands what nobody else has to the list of the outermost dying node, so that a chain of a million
// ops needs no deep stack. The list runs through the nodes, and so needs no memory, which a destructor could not ask for.
thread_local std::shared_ptr<Node>* graveyard = nullptr;  // the head of that list

void let_go(std::shared_ptr<Node>& n) {
  if (n && n.use_count() == 1) {
    n->buried = std::move(*graveyard);
    *graveyard = std::move(n);
  }
  n.reset();
}

void bury(Node& dying) {
  for (std::shared_ptr<Node>& input : dying.inputs) let_go(input);
  for (Saved& s : dying.saved) {
    if (s.tensor && s.tensor.impl().use_count() == 1 && !s.tensor.is_leaf()) let_go(s.tensor.impl()->node);
    s.tensor = {};
  }
}

}  // namespace

Node::Node() : number(next_number++) { ++alive; }

Node::~Node() {
  --alive;
  std::shared_ptr<Node> list;
  const bool outermost = !graveyard;
  if (outermost) graveyard = &list;
  bury(*this);
  release();
  if (!outermost) return;
  while (list) {
    const std::shared_ptr<Node> n = std::move(list);  // dies at the end of this turn
    list = std::move(n->buried);
  }
  graveyard = nullptr;
}

void Node::release() {
  saved.clear();
  vjp = nullptr;
  first_order = nullptr;
}

std::int64_t live_nodes() { return alive; }
std::int64_t declined_fusions() { return declined; }

bool grad_enabled() { return Recording::on; }
GradMode::GradMode(bool on) : old_(std::exchange(Recording::on, on)) {}
GradMode::~GradMode() { Recording::on = old_; }
NoFusion::NoFusion() : before_(std::exchange(fusing, false)) {}
NoFusion::~NoFusion() { fusing = before_; }

std::shared_ptr<Node> node_of(const Tensor& t) {
  if (!t) return nullptr;
  auto& impl = *t.impl();
  if (!impl.leaf) return impl.node;
  static std::mutex making;  // threads that share a model meet its weights at the same time
  const std::lock_guard lock(making);
  if (!impl.node) {
    impl.node = std::make_shared<Node>();
    impl.node->leaf = t.impl();
    impl.node->shape = t.shape(), impl.node->place = place_of(t);
  }
  return impl.node;
}

bool Ctx::needs(int input) const { return (*static_cast<const Wanted*>(wanted_))[static_cast<std::size_t>(input)] != nullptr; }

Tensor Ctx::attached(int input, const Tensor& kept) const {
  const auto& n = node_.inputs[static_cast<std::size_t>(input)];
  if (!n || kept.is_leaf()) return kept;
  Tensor t = kept.detach();
  t.impl()->node = n;
  return t;
}

Tensor Ctx::saved(int i) const {
  if (node_.released)
    fail("backward: the graph of {} was already freed by an earlier backward(); pass retain_graph", node_.name);
  if (i < 0 || static_cast<std::size_t>(i) >= node_.saved.size())
    fail("backward: saved({}) was asked for, but {} keeps {} tensors", i, node_.name, node_.saved.size());
  const Saved& s = node_.saved[static_cast<std::size_t>(i)];
  if (s.tensor && s.tensor.storage()->version() != s.version)
    fail("backward: {0} saved a tensor of shape {1} at version {2}, but it is now at version {3}; it was changed in place: write after the "
         "backward pass, compute {0} again after the write, or give {0} a clone()", node_.name, s.tensor.shape(), s.version, s.tensor.storage()->version());
  if (!s.own_output) return s.tensor;
  Tensor t = s.tensor.detach();
  t.impl()->node = const_cast<Node&>(node_).shared_from_this();
  return t;
}

Tensor record(Tensor y, std::span<const Tensor> inputs, Rule rule) {
  if (!y) fail("{}: its result is an empty Tensor handle", rule.name);
  if (AnomalyScope::active() && Recording::on) AnomalyHooks::ran(rule.name, y, inputs);
  bool tracked = false;
  if (Recording::on)
    for (const Tensor& t : inputs) tracked |= t.tracked();
  if (!rule.vjp) fail("{}: its rule has no vjp, which says how to go back", rule.name);
  if (!tracked) return y;
  bool fresh = !y.tracked();
  for (const Tensor& t : inputs) fresh &= !t || t.impl() != y.impl();
  if (!fresh) fail("{}: its result of shape {} is one of its inputs, or takes part in a graph already; record y.detach() instead", rule.name, y.shape());
  std::vector<std::shared_ptr<Node>> from;  // before n: a leaf's node is made here and must have the smaller number
  from.reserve(inputs.size());
  for (const Tensor& t : inputs) from.push_back(node_of(t));
  auto n = std::make_shared<Node>();
  n->name = rule.name;
  n->shape = y.shape(), n->place = place_of(y);
  n->vjp = std::move(rule.vjp);
  n->first_order = std::move(rule.first_order);
  n->inputs = std::move(from);
  n->saved.reserve(static_cast<std::size_t>(std::popcount(rule.keep)));
  auto save = [&](const Tensor& t, bool own) { n->saved.push_back({t, t ? t.storage()->version() : 0, own}); };
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (i < 31 && rule.keep & (1u << i)) save(inputs[i], false);  // bit 31 is keep_output
  if (rule.keep & keep_output) save(y.detach(), true);
  if (AnomalyScope::active()) AnomalyHooks::recorded(*n);
  y.impl()->node = std::move(n);
  return y;
}

Tensor record(Tensor y, std::initializer_list<Tensor> inputs, Rule rule) {
  return record(std::move(y), std::span<const Tensor>(inputs.begin(), inputs.size()), std::move(rule));
}

Tensor alias(const Tensor& x) {
  return record(x.detach(), {x}, {"alias", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {g}; }});
}

Tensor apply(const Fused& op, std::span<const Tensor> inputs) {
  if (!fusing) return op.composite(inputs);
  Tensors extra;
  Tensor y;
  {
    NoGrad off;
    y = op.forward(inputs, extra);
  }
  if (!y) return ++declined, op.composite(inputs);

  const int count = static_cast<int>(inputs.size());
  // Differentiates the composition, run again on the saved inputs: right to any order, and recorded where gradients are on.
  Vjp general = [composite = op.composite, count](const Ctx& c, const Tensor& g) {
    const bool higher = grad_enabled();
    GradMode on(true);
    Tensors in, wanted;
    std::vector<int> slot;
    for (int i = 0; i < count; ++i) {
      Tensor t = c.saved(i);
      // cuts each input off, so that a gradient does not also flow through another input computed from it
      if (t && c.needs(i)) t = higher ? alias(t) : t.detach().track();
      in.push_back(t);
      if (t && c.needs(i)) wanted.push_back(t), slot.push_back(i);
    }
    Tensors found = grad(composite(in), wanted, g, {.create_graph = higher});
    Tensors out(static_cast<std::size_t>(count));
    for (std::size_t k = 0; k < slot.size(); ++k) out[static_cast<std::size_t>(slot[k])] = found[k];
    return out;
  };
  Vjp first_order = [vjp = op.vjp, extra = std::move(extra), count, too = op.composes_too,
                     composed = op.composes_too ? general : Vjp()](const Ctx& c, const Tensor& g) {
    Tensors in;
    in.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) in.push_back(c.saved(i));
    const Tensor result = c.saved(count);
    Tensors out = vjp(c, in, result, extra, g);
    if (out.empty() && !g.is_contiguous()) out = vjp(c, in, result, extra, contiguous(g));  // a mean's gradient is one row for many
    if (out.empty()) ++declined;
    else if (too && too()) composed(c, g);
    return out;
  };
  return record(std::move(y), inputs, {op.name, keep_inputs(count) | keep_output, std::move(general), std::move(first_order)});
}

Tensor apply(const Fused& op, std::initializer_list<Tensor> inputs) {
  return apply(op, std::span<const Tensor>(inputs.begin(), inputs.size()));
}

std::function<void()> on_gradient(const Tensor& x, std::function<void(const Tensor& g)> hook) {
  if (!hook) fail("on_gradient: the hook is an empty function");
  auto n = node_of(x);
  if (!n) fail("on_gradient: the tensor {} takes part in no graph; track() a leaf it is computed from", x.shape());
  n->hooks.push_back(std::make_shared<const Hook>(std::move(hook)));
  return [node = std::weak_ptr(n), its = std::weak_ptr(n->hooks.back())] {
    if (const auto living = node.lock()) std::erase(living->hooks, its.lock());
  };
}

}  // namespace norma
