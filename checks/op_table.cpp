// The whole table, and how its inputs get their values.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "checks/op_case.h"
#include "core/random.h"

namespace norma::checks {

namespace {

struct Table {
  OpCases cases;
  ErrorCases errors;
  Table() {
    for (auto* add :
         {add_elementwise, add_reductions, add_shapes, add_products, add_indexing, add_fused, add_attention}) {
      add(cases, errors);
    }
  }
};

const Table& table() {
  static const Table t;
  return t;
}

}  // namespace

const OpCases& op_table() { return table().cases; }
const ErrorCases& error_table() { return table().errors; }

Tensor make(const Input& in, const OpCase& of, std::size_t position, Place place) {
  std::uint64_t name = 0;
  for (char c : of.title()) name = stream_id(name, static_cast<std::uint64_t>(c));
  const RandomStream random{position, name};
  const auto n = static_cast<std::size_t>(in.shape.numel());
  std::vector<double> values(n);
  std::vector<std::size_t> order(n);
  if (in.kind == Input::Kind::distinct) {
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.word(i) % i]);
  }
  for (std::size_t i = 0; i < n; ++i) {
    const double u = uniform_from(random.word(n + i));
    switch (in.kind) {
      case Input::Kind::real: {
        double v = in.low + (in.high - in.low) * u;
        if (std::abs(v) < in.away) v = std::copysign(in.away + std::abs(v), v);
        values[i] = v;
        break;
      }
      case Input::Kind::distinct:
        values[i] = 0.05 * (static_cast<double>(order[i]) - 0.4 * static_cast<double>(n)) + 0.03 * u;
        break;
      case Input::Kind::index:
        values[i] = std::floor(in.low + (in.high - in.low) * u);
        break;
      case Input::Kind::flag:
        values[i] = u < 0.6;
        break;
    }
    // Exact in f32, so that both precisions see the same numbers.
    values[i] = static_cast<double>(static_cast<float>(values[i]));
  }
  if (in.kind == Input::Kind::index) place.dtype = DType::i64;
  if (in.kind == Input::Kind::flag) place.dtype = DType::boolean;
  return from_values(values, in.shape, place);
}

}  // namespace norma::checks
