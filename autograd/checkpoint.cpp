// Activation checkpointing as one ordinary op: its derivative runs f again and differentiates that. Under create_graph the
// derivative is itself a checkpointed op of (inputs, g), so any order works and nothing in between is kept.
#include <unordered_set>

#include "autograd/dispatch.h"
#include "autograd/graph.h"

namespace norma {

namespace {

/// Where the random draws of a run of f began, and how many there were.
struct Draws {
  std::uint64_t first = RandomScope::drawn(), count = 0;
  RandomStream stream = {};  // of the first of them: tells one scope from another

  /// For when f has run.
  void end() {
    count = RandomScope::drawn() - first;
    if (count == 0) return;  // a scope of a captured step may have no more streams
    RandomScope::rewind(first);
    stream = peek();
    RandomScope::rewind(first + count);
  }
  /// The draw that comes next.
  static RandomStream peek() {
    if (!RandomScope::active()) return {};
    const std::uint64_t at = RandomScope::drawn();
    const RandomStream stream = RandomScope::next();
    RandomScope::rewind(at);
    return stream;
  }
};

/// While alive, draws repeat from a point; afterwards they continue where they were.
class Replay {
 public:
  explicit Replay(const Draws& draws) {
    RandomScope::rewind(draws.first);
    if (draws.count && !(Draws::peek() == draws.stream))
      fail("checkpoint: the function drew random numbers in another RandomScope; keep that scope until backward()");
  }
  /// For when f has run.
  static void check(const Draws& draws) {
    const std::uint64_t now = RandomScope::drawn() - draws.first;
    if (now != draws.count)
      fail("checkpoint: the function drew {} random numbers and {} when it ran again; keep what decides it (Training) until backward()",
           draws.count, now);
  }
  Replay(const Replay&) = delete;

 private:
  struct Resume {  // also where what follows throws
    const std::uint64_t at = RandomScope::drawn();
    ~Resume() { RandomScope::rewind(at); }
  } resume_;
};

using Slots = std::vector<std::size_t>;

/// d<f(xs), g>/dx for the inputs in `slots`, recorded where gradients are on. Computed inputs are cut off from their history,
/// so that what flows through one is not counted for another; leaves stay themselves, since f may hold a parameter.
Tensors gradients(const Function& f, std::span<const Tensor> xs, const Slots& slots, const Tensor& g) {
  const bool higher = grad_enabled();
  GradMode on(true);
  Tensors in, wanted;
  for (const Tensor& x : xs) in.push_back(!higher && x.tracked() && !x.is_leaf() ? x.detach().track() : x);
  for (const std::size_t i : slots) wanted.push_back(in[i]);
  const Tensor y = f(in);
  if (y.shape() != g.shape() || place_of(y) != place_of(g))
    fail("checkpoint: the function returned {} {} on {}, and {} {} on {} when it ran again; what decides it must not change until backward()", g.dtype(),
         g.shape(), name(g.device()), y.dtype(), y.shape(), name(y.device()));
  if (y.tracked()) return grad(y, wanted, g, {.create_graph = higher});
  for (Tensor& w : wanted) w = zeros(w.shape(), place_of(w));
  return wanted;
}

/// The same as one checkpointed op; its gradients travel as one flat tensor and so share a dtype and a device.
Tensors checkpointed_gradients(const Function& f, std::span<const Tensor> xs, const Slots& slots, const Tensor& g) {
  Tensors inputs(xs.begin(), xs.end());
  inputs.push_back(g);
  const Function packed = [f, slots](std::span<const Tensor> in) {
    Tensors parts = gradients(f, in.first(in.size() - 1), slots, in.back());
    for (Tensor& p : parts) p = reshape(p, Shape{p.numel()});
    return parts.size() == 1 ? parts[0] : cat(parts, 0);
  };
  const Tensor all = checkpoint(packed, inputs);
  Tensors found;
  Index start = 0;
  for (const std::size_t i : slots) {
    const Index n = xs[i].numel();
    found.push_back(reshape(slice(all, 0, start, start + n), xs[i].shape()));
    start += n;
  }
  return found;
}

/// The inputs whose gradient is asked for, a leaf that is given twice only once: its gradient is the whole one.
Slots asked(const Ctx& c, const Tensors& xs) {
  Slots slots;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    bool repeated = false;
    for (std::size_t k = 0; k < i; ++k) repeated |= xs[i] && xs[i].is_leaf() && xs[k].impl() == xs[i].impl();
    if (c.needs(static_cast<int>(i)) && !repeated) slots.push_back(i);
  }
  return slots;
}

Tensors vjp(const Function& f, const Tensors& xs, const Draws& draws, const Ctx& c, const Tensor& g) {
  Tensors result(xs.size());
  Slots rest = asked(c, xs);
  while (!rest.empty()) {
    Slots now, later;
    const Tensor& first = xs[rest[0]];
    for (const std::size_t i : rest) {
      const bool together = !grad_enabled() || (xs[i].dtype() == first.dtype() && xs[i].device() == first.device());
      (together ? now : later).push_back(i);
    }
    const Replay replay(draws);
    const Tensors found = grad_enabled() ? checkpointed_gradients(f, xs, now, g) : gradients(f, xs, now, g);
    Replay::check(draws);
    for (std::size_t k = 0; k < now.size(); ++k) result[now[k]] = found[k];
    rest = later;
  }
  return result;
}

/// Adds to xs the tracked leaves from which y was computed and that are not among them.
void add_leaves(const Tensor& y, std::uint64_t begun, Tensors& xs) {
  std::unordered_set<const Node*> known;
  for (const Tensor& x : xs)
    if (const auto n = node_of(x)) known.insert(n.get());
  std::vector<const Node*> stack{node_of(y).get()};
  while (!stack.empty()) {
    const Node& n = *stack.back();
    stack.pop_back();
    if (!known.insert(&n).second) continue;
    if (const auto leaf = n.leaf.lock()) {
      xs.push_back(Tensor::wrap(leaf));
    } else if (n.number < begun) {
      fail("checkpoint: the function uses a result of {}, of shape {}, that was computed outside it from tracked tensors; give it as an input", n.name,
           n.shape);
    }
    for (const auto& input : n.inputs)
      if (input) stack.push_back(input.get());
  }
}

}  // namespace

Tensor checkpoint(const Function& f, std::span<const Tensor> inputs) {
  if (!f) fail("checkpoint: the function is empty");
  if (!grad_enabled()) return f(inputs);
  Draws draws;
  Tensors xs(inputs.begin(), inputs.end());
  Tensor y;
  {
    Tensors in;  // cut off from their history, so that the leaves behind y are those that f holds
    for (const Tensor& x : xs) in.push_back(x.tracked() && !x.is_leaf() ? x.detach().track() : x);
    const std::uint64_t begun = Node().number;
    y = f(in);
    if (!y.tracked()) return y;
    const std::size_t given = in.size();
    add_leaves(y, begun, in);
    xs.insert(xs.end(), in.begin() + static_cast<std::ptrdiff_t>(given), in.end());
    y = y.detach();
  }
  draws.end();
  const Function of_inputs = [f, given = inputs.size()](std::span<const Tensor> in) { return f(in.first(given)); };
  Tensors kept;  // of what was computed only the data: the node has what it was computed by, and a chain ends node by node
  std::vector<std::uint32_t> versions;
  for (const Tensor& x : xs) {
    kept.push_back(x.tracked() && !x.is_leaf() ? x.detach() : x);
    versions.push_back(x ? x.storage()->version() : 0);
  }
  return record(y, xs, {"checkpoint", keep_nothing, [f = of_inputs, kept, versions, draws](const Ctx& c, const Tensor& g) {
                          Tensors in;
                          for (std::size_t i = 0; i < kept.size(); ++i) {
                            if (kept[i] && kept[i].storage()->version() != versions[i])
                              fail("checkpoint: input {} of shape {} was changed in place since: write after the backward pass, compute checkpoint "
                                   "again after the write, or give checkpoint a clone()", i, kept[i].shape());
                            in.push_back(c.attached(static_cast<int>(i), kept[i]));
                          }
                          return vjp(f, in, draws, c, g);
                        }});
}

}  // namespace norma
