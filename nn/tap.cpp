// Listeners of a tap, and when they are called.
#include "nn/tap.h"

#include "autograd/dispatch.h"
#include "autograd/node.h"
#include "core/scoring.h"

namespace norma::nn {

int Tap::add(const char* what, Listeners& to, Listener f) {
  if (!f) fail("tap: {} was given an empty function", what);
  to.emplace_back(next_, std::make_shared<const Listener>(std::move(f)));
  return next_++;
}

int Tap::on_value(Listener f) { return add("on_value", value_, std::move(f)); }
int Tap::on_gradient(Listener f) { return add("on_gradient", gradient_, std::move(f)); }

void Tap::remove(int id) {
  auto gone = [id](const auto& entry) { return entry.first == id; };
  std::erase_if(value_, gone);
  std::erase_if(gradient_, gone);
}

Tensor Tap::fire(const Tensor& x) const {
  // Those of this value: a listener may change the lists, its own place too.
  const auto listening = [](const Listeners& all) {
    std::vector<std::weak_ptr<const Listener>> now;
    for (const auto& [id, listener] : all) now.push_back(listener);
    return now;
  };
  const auto now = listening(value_), of_gradient = listening(gradient_);
  const bool hooked = !of_gradient.empty() && grad_enabled() && x.tracked();
  const Tensor seen = hooked && x.is_leaf() ? alias(x) : x;  // hooks on a leaf would stay for the graphs of later calls
  for (const auto& listener : now)
    if (const auto there = listener.lock()) (*there)(seen);
  if (hooked)
    for (const auto& listener : of_gradient)
      norma::on_gradient(seen, [listener](const Tensor& g) {
        if (const auto there = listener.lock()) (*there)(g);
      });
  return seen;
}

void StatsTap::operator()(const Tensor& stats, Index rows) const {
  if (!watched()) return;
  if (!stats || stats.dtype() != DType::f64 || stats.rank() != 3 || stats.size(2) != attention_stats)
    fail("stats tap: it was given {}, expected f64 [B, H, {}], the options.stats of an attention op",
         stats ? fmt::format("{} {}", stats.dtype(), stats.shape()) : "an empty Tensor handle", attention_stats);
  if (stats.storage()->version() == 0)
    fail("stats tap: nothing has been written into the statistics yet; hand them over after the op that they are for");
  rows_ = rows;
  (void)Tap::operator()(stats);
}

}  // namespace norma::nn
