// The table of op cases: one line says how an op is called and on what; test_ops.cpp makes every check from it (value
// against the reference backend, derivatives of first and second order, layouts, dtypes, compositions). To test a new
// op, add a line to the op_table_*.cpp of its subject; an op of autograd/ops.h or core/op_list.h without a line fails
// the test.
#pragma once

#include <string>
#include <vector>

#include "autograd/ops.h"

namespace norma::checks {

using In = std::span<const Tensor>;

/// What an input holds. Values depend on the case's name and the input's position alone.
struct Input {
  enum class Kind { real, distinct, index, flag };
  Shape shape;
  Kind kind = Kind::real;
  double low = -1, high = 1;  // real: uniform in between; index: integers in [low, high)
  double away = 0;            // real: |value| stays above this
  bool constant = false;      // not differentiated
};
inline Input real(const Shape& s, double low = -1, double high = 1) {
  return {s, Input::Kind::real, low, high, 0, false};
}
/// Away from zero by 0.1: for functions with a kink or a pole there.
inline Input nonzero(const Shape& s, double high = 1) { return {s, Input::Kind::real, -high, high, 0.1, false}; }
/// No two values closer than 0.02: for functions that compare elements.
inline Input distinct(const Shape& s) { return {s, Input::Kind::distinct, -1, 1, 0, false}; }
inline Input index(const Shape& s, Index limit) {
  return {s, Input::Kind::index, 0, static_cast<double>(limit), 0, true};
}
inline Input flags(const Shape& s) { return {s, Input::Kind::flag, 0, 1, 0, true}; }
inline Input constant(Input in) { return in.constant = true, in; }

struct OpCase {
  std::string op = {};  // its name in autograd/ops.h
  std::string variant = {};
  std::vector<Input> inputs = {};
  std::function<Tensor(In)> run = {};
  int order = 2;           // derivatives that exist: 0 (none), 1, or 2 and more
  bool any_shape = false;  // also run with all inputs 0-d, and with a size of 0
  bool fused = false;      // compared with its composition, and the f32 CPU kernel must not decline
  bool large = false;      // too large for full Jacobians: gradients are compared with the reference only
  double condition = 16;   // an error may reach this many eps times the largest absolute value
  double bf16 = 4;         // the same for bf16 inputs; 0: not supported
  unsigned parameters = 0;  // inputs, one bit each, that are f32 in mixed precision, where the other real ones are bf16
  std::string title() const { return variant.empty() ? op : op + ": " + variant; }
};

struct ErrorCase {
  std::string op;
  std::function<void()> run;
  std::string text;  // exactly
};

using OpCases = std::vector<OpCase>;
using ErrorCases = std::vector<ErrorCase>;
const OpCases& op_table();
const ErrorCases& error_table();

// The parts, one for each subject of ops.h.
void add_elementwise(OpCases& cases, ErrorCases& errors);
void add_reductions(OpCases& cases, ErrorCases& errors);
void add_shapes(OpCases& cases, ErrorCases& errors);
void add_products(OpCases& cases, ErrorCases& errors);
void add_indexing(OpCases& cases, ErrorCases& errors);
void add_fused(OpCases& cases, ErrorCases& errors);
void add_attention(OpCases& cases, ErrorCases& errors);

/// Contents of one input, contiguous, real ones in `place`'s dtype.
Tensor make(const Input& in, const OpCase& of, std::size_t position, Place place);

}  // namespace norma::checks
