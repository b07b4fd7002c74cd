// Sliding windows: unfold and fold are each other's derivative. Convolution: fused_conv.cpp.
#include <algorithm>

#include "autograd/windows.h"

namespace norma {

void check_window(std::string_view op, const Window& w, Index height, Index width) {
  if (w.kernel_h < 1 || w.kernel_w < 1 || w.stride_h < 1 || w.stride_w < 1 || w.pad_h < 0 || w.pad_w < 0) {
    fail("{}: kernel {}x{} and stride {}x{} must be at least 1, padding {}x{} at least 0", op, w.kernel_h, w.kernel_w,
         w.stride_h, w.stride_w, w.pad_h, w.pad_w);
  }
  constexpr Index most = Index{1} << 31;  // so that no sum or product of two of them overflows
  if (std::max({w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.pad_h, w.pad_w}) > most)
    fail("{}: kernel {}x{}, stride {}x{}, padding {}x{}: none may be above {}", op, w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.pad_h, w.pad_w, most);
  if (std::max(height, width) > most) fail("{}: images of {}x{}: no side may be above {}", op, height, width, most);
  const Index h = height + 2 * w.pad_h, v = width + 2 * w.pad_w;
  if (w.kernel_h > h || w.kernel_w > v) {
    fail("{}: kernel {}x{} exceeds the padded input {}x{}", op, w.kernel_h, w.kernel_w, h, v);
  }
}

void check_image(std::string_view op, const Tensor& x) {
  check_floating(op, x);
  if (x.rank() != 4) fail("{}: x must be [B, C, h, w], got {}", op, x.shape());
}

Tensor unfold(const Tensor& x, const Window& window) {
  check_image("unfold", x);
  const Index h = x.size(2), w = x.size(3);
  check_window("unfold", window, h, w);
  const Index rows = Shape{x.size(1), window.kernel_h, window.kernel_w}.numel(), places = Shape{window.out_h(h), window.out_w(w)}.numel();
  Tensor y = empty({x.size(0), rows, places}, place_of(x));
  backend_of(x).unfold(x.view(), window, y.view());
  return record(y, {x}, {"unfold", keep_nothing, [window, h, w](const Ctx&, const Tensor& g) -> Tensors {
                           return {fold(g, window, h, w)};
                         }});
}

Tensor fold(const Tensor& columns, const Window& window, Index height, Index width) {
  check_floating("fold", columns);
  check_window("fold", window, height, width);
  const Index area = window.kernel_h * window.kernel_w, places = Shape{window.out_h(height), window.out_w(width)}.numel();
  if (columns.rank() != 3 || columns.size(1) % area != 0 || columns.size(2) != places) {
    fail("fold: columns must be [B, C * {}, {}] for {}x{} windows over {}x{}, got {}", area, places, window.kernel_h,
         window.kernel_w, height, width, columns.shape());
  }
  Tensor y = empty({columns.size(0), columns.size(1) / area, height, width}, place_of(columns));
  backend_of(y).fold(columns.view(), window, y.view());
  return record(y, {columns}, {"fold", keep_nothing, [window](const Ctx&, const Tensor& g) -> Tensors {
                                 return {unfold(g, window)};
                               }});
}

}  // namespace norma
