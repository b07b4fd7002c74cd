// A program of somebody else, built against an installed Norma: second derivatives through polynomial attention.
#include <cstdio>
#include <string>
#include <string_view>

#include "autograd/ops.h"
#include "backends/register_all.h"
#include "nn/scoring.h"

int main() {
  using namespace norma;
  try {
    zeros({1});
    return 2;
  } catch (const Error& e) {  // says what is missing
    if (std::string_view(e.what()).find("call register_backends() first") == std::string_view::npos) return 3;
  }
  register_backends();
  Tensor q = full({1, 1, 2, 2}, 0.5, {DType::f64}).track();
  AttentionOptions options;
  options.scoring = nn::parse_scoring("x^3/sqrt(N)");
  Tensor y = sum(attention(q, q, q, options));
  Tensor dy = grad(y, q, {.create_graph = true});
  Tensor ddy = grad(sum(square(dy)), q);
  std::printf("y %.6f  |dy| %.6f  |ddy| %.6f\n", y.item(), norm(dy).item(), norm(ddy).item());
  return ddy.numel() == 4 && fmt::format("{}", ddy.shape()) == "[1, 1, 2, 2]" ? 0 : 1;
}
