// The inside of a Node: for the engine's own files (node.cpp, grad.cpp, checkpoint.cpp, anomaly.cpp) only.
#pragma once

#include "autograd/node.h"

namespace norma {

struct Saved {
  Tensor tensor;              // an input, whole; or the op's own output, data only (otherwise a cycle would leak)
  std::uint32_t version = 0;  // of the storage when it was saved
  bool own_output = false;
};

using Hook = std::function<void(const Tensor& g)>;

struct Node : std::enable_shared_from_this<Node> {
  Node();
  ~Node();
  Node(const Node&) = delete;

  const char* name = "leaf";
  std::uint64_t number;  // creation order: inputs have smaller numbers than what is computed from them
  std::vector<std::shared_ptr<Node>> inputs;  // null where an input is not tracked
  std::vector<Saved> saved;
  Vjp vjp, first_order;  // where first_order returns no gradients at all, vjp is asked
  std::vector<std::shared_ptr<const Hook>> hooks;
  std::weak_ptr<Tensor::Impl> leaf;  // set for leaves: where backward() accumulates
  Shape shape;
  Place place;
  bool released = false;
  std::shared_ptr<Node> buried;  // the next of those that wait for their end

  void release();
};

/// A node on the way of a sweep.
struct Visit {
  Node* node;
  bool target = false;  // its gradient is asked for
  bool wanted = false;  // a target, or computed from one: the sweep passes through
  Tensor gradient = {};  // what has arrived until now
};
/// What a Ctx knows of its node's inputs: where each one's gradient goes, null where it is not asked for.
using Wanted = std::vector<Visit*>;

/// The node of a tracked tensor (made on first use for a leaf), null for an untracked one.
std::shared_ptr<Node> node_of(const Tensor& t);

}  // namespace norma
