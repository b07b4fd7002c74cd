// Dropout: a product with a mask that is a function of (stream, element index). The mask is drawn again where a
// derivative needs it, so nothing is kept.
#include "autograd/fused_util.h"

namespace norma {

Tensor dropout(const Tensor& x, double p, RandomStream stream) {
  if (!(p >= 0 && p <= 1)) fail("dropout: p = {} must be in [0, 1]", p);
  check_floating("dropout", x);
  if (p == 0) return x;
  Tensor mask;
  if (p == 1) {
    mask = zeros(x.shape(), place_of(x));
  } else {
    mask = empty(x.shape(), place_of(x));
    backend_of(x).random(RandomKind::keep, stream, p, mask.view());
  }
  // Linear in x and symmetric: the derivative is the same dropout of the gradient, to any order.
  return record(mul(x.detach(), mask), {x}, Rule{"dropout", keep_nothing, [=](const Ctx&, const Tensor& g) -> Tensors {
                                                   return {dropout(g, p, stream)};
                                                 }});
}

}  // namespace norma
