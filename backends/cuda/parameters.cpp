// The verbs over all parameters of a model: tables of tensors, one launch for each full table.
#include "backends/cuda/kernels/parameters.h"

#include <deque>

#include "backends/cuda/cuda_backend.h"

namespace norma::cuda {
namespace {

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return false;
  return true;
}

}  // namespace

void CudaBackend::sum_of_squares(std::span<const View> xs, const View& out) {
  Index pieces = 0;
  for (const View& x : xs) pieces += SquaresTable::pieces_of(x.numel());
  const Scratch partial = scratch<double>(pieces);
  std::deque<Scratch> dense;  // copies of what is not
  double* to = partial.as<double>();
  SquaresTable table;
  const auto run = [&] {
    if (table.pieces > 0) sum_squares(stream(), table, xs[0].dtype, to);
    to += table.pieces;
    table = {};
  };
  for (const View& x : xs) {
    if (x.numel() == 0) continue;
    View from = x;
    if (!x.layout.contiguous()) {
      from = {dense.emplace_back(pool_, static_cast<std::size_t>(x.numel()) * size_of(x.dtype)).as<void>(), Layout(x.shape()), x.dtype};
      copy(x, from);
    }
    table.add({from.data, x.numel()});
    if (table.count == SquaresTable::capacity) run();
  }
  run();
  join_squares(stream(), partial.as<double>(), pieces, out.as<double>());
}

void CudaBackend::round_weights(std::span<const View> from, std::span<const View> to) {
  PairTable table;
  const auto run = [&] {
    if (table.pieces > 0) round_parameters(stream(), table);
    table = {};
  };
  for (std::size_t i = 0; i < from.size(); ++i) {
    table.add({from[i].data, to[i].data, from[i].numel()});
    if (table.count == PairTable::capacity) run();
  }
  run();
}

void CudaBackend::moving_averages(std::span<const MovingAverage> all, double decay) {
  PairTable table;
  DType dtype = DType::f32;  // of the table's rows
  const auto run = [&] {
    if (table.pieces > 0) step_averages(stream(), table, dtype, decay);
    table = {};
  };
  for (const MovingAverage& one : all) {
    if (one.average.numel() == 0) continue;
    if (one.average.dtype != dtype || table.count == PairTable::capacity) run();
    dtype = one.average.dtype;
    table.add({one.value.data, one.average.data, one.average.numel()});
  }
  run();
}

bool CudaBackend::gradient_scale(const GradientScale& args) {
  if (args.loss.dtype != DType::f32 && args.loss.dtype != DType::f64) return false;
  scale_gradients(stream(), args.squares.as<double>(), args.loss.data, args.loss.dtype, args.clip, args.scale.as<double>());
  return true;
}

void CudaBackend::adamw(const AdamW& args) {
  const AdamWRule rule{args.beta1, args.beta2, args.eps, args.rates.as<double>(), args.gradient_scale.as<double>()};
  AdamWTable table;
  const auto run = [&] {
    if (table.pieces > 0) adamw_update(stream(), table, args.parameters[0].value.dtype, rule);
    table = {};
  };
  for (const AdamW::Parameter& p : args.parameters) {
    if (p.value.numel() == 0) continue;
    AdamWRow row{p.value.data, p.m.data, p.v.data, p.gradient.data, p.value.numel(), p.decay};
    row.aligned = aligned({row.value, row.m, row.v, row.gradient});
    table.add(row);
    if (table.count == AdamWTable::capacity) run();
  }
  run();
}

}  // namespace norma::cuda
