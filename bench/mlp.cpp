// norma_bench_mlp: the two layers of a transformer's MLP in one call and layer by layer, forward and backward, on the
// CPU. Several layers are computed in turn, so that operands come from memory as in a training step. norma_bench_mlp
// --help lists the flags.
#include <algorithm>

#include "autograd/dispatch.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/peak.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Setup {
  Index rows = 4160, width = 192, hidden = 0, layers = 12, threads = 2, rounds = 7;
  std::string dtype = "f32";
  bool help = false;
};

/// Normal numbers of the given deviation.
Tensor numbers(const Shape& shape, DType dtype, double deviation = 1) {
  static std::uint64_t stream = 0;
  return cast(randn(shape, {7, ++stream}) * deviation, dtype);
}

struct Layer {
  Tensor x, pre, hidden, y, dy, dpre, dx;  // activations
  Tensor w1, b1, w2, b2, dw1, db1, dw2, db2;
  Layer(const Setup& s, DType dtype) {
    for (Tensor* t : {&x, &y, &dy, &dx}) *t = numbers({s.rows, s.width}, dtype);
    for (Tensor* t : {&pre, &hidden, &dpre}) *t = numbers({s.rows, s.hidden}, dtype);
    for (Tensor* t : {&w1, &dw1}) *t = numbers({s.hidden, s.width}, DType::f32, 0.05);
    for (Tensor* t : {&w2, &dw2}) *t = numbers({s.width, s.hidden}, DType::f32, 0.05);
    for (Tensor* t : {&b1, &db1}) *t = numbers({s.hidden}, DType::f32);
    for (Tensor* t : {&b2, &db2}) *t = numbers({s.width}, DType::f32);
  }

  bool forward_at_once() const {
    return backend({}).mlp({x.view(), w1.view(), w2.view(), y.view(), b1.view(), b2.view(), x.view(), pre.view()});
  }
  bool forward_by_layer() const {
    return backend({}).linear({x.view(), w1.view(), hidden.view(), b1.view(), {}, pre.view(), true}) &&
           backend({}).linear({hidden.view(), w2.view(), y.view(), b2.view(), x.view()});
  }
  bool backward_at_once() const {
    return backend({}).mlp_backward({dy.view(), x.view(), pre.view(), w1.view(), w2.view(), dw1.view(), dw2.view(),
                                     dx.view(), db1.view(), db2.view()});
  }
  bool backward_by_layer() const {
    return backend({}).linear_backward(
               {dy.view(), pre.view(), w2.view(), true, dpre.view(), pre.view(), dw2.view(), db2.view()}) &&
           backend({}).linear_backward(
               {dpre.view(), x.view(), w1.view(), false, dx.view(), {}, dw1.view(), db1.view()});
  }
};

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    Setup s;
    train::Options o;
    o("rows", s.rows, "rows: images or sequences times tokens");
    o("width", s.width, "width of the input and the output");
    o("hidden", s.hidden, "width between the layers; 0: four times the width");
    o("layers", s.layers, "layers that are computed in turn");
    o("threads", s.threads, "threads");
    o("dtype", s.dtype, "f32, or bf16: mixed precision");
    o("rounds", s.rounds, "rounds over all layers");
    o("help", s.help, "print this, and stop");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (s.help) {
      fmt::print("usage: norma_bench_mlp [flags]\n{}", o.help());
      return 0;
    }
    for (const auto& [name, value] : {std::pair{"rows", s.rows},
                                      {"width", s.width},
                                      {"layers", s.layers},
                                      {"threads", s.threads},
                                      {"rounds", s.rounds}})
      if (value < 1) fail("--{}: {} is not possible; give 1 or more", name, value);
    if (s.hidden == 0) s.hidden = 4 * s.width;
    cpu::set_threads(static_cast<int>(s.threads));
    if (s.dtype != "f32" && s.dtype != "bf16") fail("--dtype: \"{}\" is not possible; there are f32, bf16", s.dtype);
    std::vector<Layer> layers;
    for (Index i = 0; i < s.layers; ++i) layers.emplace_back(s, s.dtype == "bf16" ? DType::bf16 : DType::f32);
    const double peak = bench::fma_peak(static_cast<int>(s.threads));
    const auto row = [&](const char* name, double products, bool (Layer::*pass)() const) {
      std::vector<double> times;
      bool done = true;
      for (Index r = 0; r < s.rounds; ++r) {
        const double start = bench::seconds();
        for (const Layer& layer : layers) done = (layer.*pass)() && done;
        times.push_back((bench::seconds() - start) / static_cast<double>(s.layers));
      }
      if (!done) return fmt::print("{:<26} not covered\n", name);
      std::sort(times.begin(), times.end());
      const double time = times[times.size() / 2];
      const double rate = products * 2e-9 * static_cast<double>(s.rows * s.width * s.hidden) / time;
      fmt::print("{:<26} {:8.2f} ms {:8.0f} GFLOP/s {:5.0f} % of the FMA peak\n", name, 1e3 * time, rate,
                 100 * rate / peak);
    };
    row("forward, at once", 2, &Layer::forward_at_once);
    row("forward, layer by layer", 2, &Layer::forward_by_layer);
    row("backward, at once", 4, &Layer::backward_at_once);
    row("backward, layer by layer", 4, &Layer::backward_by_layer);
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_mlp: {}\n", e.what());
    return 1;
  }
}
