// A named place in a model that one can watch. It returns its argument, untouched and free of cost, unless watched.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace norma::nn {

class Tap {
 public:
  /// Copies of a tap (modules are values) have no listeners: one watches a model, not its blueprint. A module that is moved is copied here,
  /// and loses them: watch it where it stays.
  Tap() = default;
  Tap(const Tap&) {}
  Tap& operator=(const Tap&) { return *this; }
  virtual ~Tap() = default;

  bool wants_gradient() const { return !gradient_.empty(); }
  bool watched() const { return !value_.empty() || !gradient_.empty(); }
  Tensor operator()(const Tensor& x) const { return watched() ? fire(x) : x; }

  /// Values are handed over as they are in the graph, so that a penalty can be computed from them; the gradient is dL/d
  /// value, to look at (norma::on_gradient); of a tracked leaf, what comes back through this call. Inside checkpoint() a value is seen twice,
  /// when it is computed again too.
  using Listener = std::function<void(const Tensor&)>;
  /// Returns an id for remove().
  int on_value(Listener f);
  int on_gradient(Listener f);
  /// The listener is not called any more, by backward passes of what was computed before either. A listener may remove itself or others
  /// and add some, which are called from the next value on. The end of the tap is that of its listeners.
  void remove(int id);

 private:
  using Listeners = std::vector<std::pair<int, std::shared_ptr<const Listener>>>;
  Tensor fire(const Tensor& x) const;
  int add(const char* what, Listeners& to, Listener f);
  Listeners value_, gradient_;
  int next_ = 0;
};

/// A place whose tensor exists only while it is watched: S or A, which the attention layer then forms in full, for that call only.
/// inspect::Probe::take_formed() says how often that was.
class MatrixTap : public Tap {};

/// A place where attention statistics can be had without forming the matrix. When watched, the attention layer lets the
/// kernel fill a tensor f64 [B, H, attention_stats] and hands it over; the backward pass completes it in place.
class StatsTap : public Tap {
 public:
  /// `rows`: how many rows of A each sum of the statistics runs over. `stats`: a tensor of this call's own, after the op has written into it;
  /// throws, while watched, where it is another kind of tensor, or one into which nothing was written.
  void operator()(const Tensor& stats, Index rows) const;
  /// Of the latest call; for listeners.
  Index rows() const { return rows_; }

 private:
  mutable Index rows_ = 0;
};

}  // namespace norma::nn
