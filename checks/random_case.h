// Calls of ops drawn from a seed: which op, with which options, sizes on the borders of the kernels' blocks and beside them, dtypes, memory.
// tests/test_random_cases.cpp holds them to the reference in float64, on every device and instruction set, as many as one likes.
#pragma once

#include "checks/op_case.h"

namespace norma::checks {

struct RandomCase {
  enum class Memory : std::uint8_t { dense, stepped, reversed, transposed };
  OpCase call = {};                 // title(): the op, the number of the case, its options
  DType dtype = DType::f32;         // of the real inputs; call.parameters stay f32 beside bf16
  std::vector<Memory> memory = {};  // of each input, and last of the cotangent
  /// Attention in quadratic form: the call, writing statistics of this shape (f64) as well.
  std::function<Tensor(In, const Tensor& stats)> measured = {};
  Shape stats = {};

  Place place(std::size_t input, Device device) const;
  std::string text() const;  // "attention: case 7, x^3/sqrt(N), causal; f32 [2, 3, 65, 64], [2, 3, 65, 64] stepped, ..."
};

/// x in other memory.
Tensor placed(const Tensor& x, RandomCase::Memory memory);

/// Case `number` of `seed`, always the same one; `work`: about how many multiply-adds a product in it may take.
RandomCase random_case(std::uint64_t seed, std::uint64_t number, double work);

}  // namespace norma::checks
