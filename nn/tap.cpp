// Listeners of a tap, and when they are called.
#include "nn/tap.h"

#include "autograd/node.h"

namespace norma::nn {

int Tap::on_value(Listener f) {
  value_.emplace_back(next_, std::move(f));
  return next_++;
}

int Tap::on_gradient(Listener f) {
  gradient_.emplace_back(next_, std::move(f));
  return next_++;
}

void Tap::remove(int id) {
  auto gone = [id](const auto& entry) { return entry.first == id; };
  std::erase_if(value_, gone);
  std::erase_if(gradient_, gone);
}

Tensor Tap::fire(const Tensor& x) const {
  for (const auto& [id, listener] : value_) listener(x);
  if (grad_enabled() && x.tracked())
    for (const auto& [id, listener] : gradient_) norma::on_gradient(x, listener);
  return x;
}

}  // namespace norma::nn
