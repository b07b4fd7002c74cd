// Ops that take index tensors.
#include <limits>

#include "checks/op_case.h"

namespace norma::checks {

void add_indexing(OpCases& cases, ErrorCases& errors) {
  const auto add = [&](const char* op, const char* variant, std::vector<Input> inputs, std::function<Tensor(In)> f) {
    cases.push_back({.op = op, .variant = variant, .inputs = std::move(inputs), .run = std::move(f), .order = 1});
  };
  add("gather", "", {real({3, 4}), index({3, 2}, 4)}, [](In x) { return gather(x[0], 1, x[1]); });
  add("gather", "axis 0, repeated", {real({2, 3}), index({5, 3}, 2)}, [](In x) { return gather(x[0], 0, x[1]); });
  add("gather", "nothing", {real({3, 4}), index({3, 0}, 4)}, [](In x) { return gather(x[0], 1, x[1]); });
  add("scatter_add", "", {real({3, 4}), index({3, 2}, 4), real({3, 2})},
      [](In x) { return scatter_add(x[0], 1, x[1], x[2]); });
  add("scatter_add", "axis 0, collisions", {real({2, 3}), index({5, 3}, 2), real({5, 3})},
      [](In x) { return scatter_add(x[0], 0, x[1], x[2]); });
  add("index_select", "", {real({3, 4}), index({5}, 3)}, [](In x) { return index_select(x[0], 0, x[1]); });
  add("index_select", "last axis", {real({2, 4}), index({3}, 4)}, [](In x) { return index_select(x[0], -1, x[1]); });
  add("index_select", "nothing", {real({2, 4}), index({0}, 4)}, [](In x) { return index_select(x[0], 0, x[1]); });
  add("embedding", "", {real({5, 3}), index({2, 4}, 5)}, [](In x) { return embedding(x[0], x[1]); });
  add("embedding", "0-d index", {real({5, 3}), index({}, 5)}, [](In x) { return embedding(x[0], x[1]); });
  add("embedding", "no token", {real({5, 3}), index({2, 0}, 5)}, [](In x) { return embedding(x[0], x[1]); });
  for (const auto& [variant, shape] : {std::pair<const char*, Shape>{"", {2, 3}}, {"0-d", {}}, {"nothing", {0}}})
    cases.push_back({.op = "one_hot", .variant = variant, .inputs = {index(shape, 4)}, .run = [](In x) { return one_hot(x[0], 4); }, .order = 0});
  cases.push_back({.op = "embedding",
                   .variant = "70x33",
                   .inputs = {real({70, 33}), index({4, 50}, 70)},
                   .run = [](In x) { return embedding(x[0], x[1]); },
                   .order = 1,
                   .large = true});

  const auto message = [&](const char* op, std::function<void()> run, const char* text) {
    errors.push_back({op, std::move(run), text});
  };
  const auto at = [](std::vector<double> v, const Shape& s) { return from_values(v, s, {DType::i64}); };
  message(
      "embedding",
      [=] {
        return embedding(ones({5, 2}), at({1, 7}, {2}));
      },
      "embedding: index 7 at position [1] is outside the table of 5 rows");
  message("embedding", [=] { return embedding(Tensor(), at({1}, {1})); }, "embedding: the table is an empty Tensor handle");
  message("gather", [] { return gather(ones({2, 3}), 1, Tensor()); }, "gather: the index is an empty Tensor handle");
  constexpr Index far = std::numeric_limits<Index>::max();
  message(
      "gather", [] { return gather(ones({2, 3}), 1, transpose(from_values(std::vector<Index>{0, 1, far, 2}, {2, 2}))); },
      "gather: index 9223372036854775807 at position [0, 1] is outside axis 1 of size 3");
  message(
      "one_hot", [=] { return one_hot(at({0, 3}, {2}), 3); }, "one_hot: index 3 at position [1] is outside 3 classes");
  message(
      "embedding", [=] { return embedding(ones({5}), at({1}, {1})); }, "embedding: the table must be [rows, width], got [5]");
  message(
      "gather",
      [=] {
        return gather(ones({2, 3}), 1, at({0, 3}, {2, 1}));
      },
      "gather: index 3 at position [1, 0] is outside axis 1 of size 3");
  message(
      "gather",
      [=] {
        return gather(ones({2, 3}), 1, at({0}, {1}));
      },
      "gather: index [1] must have the rank of [2, 3] and not exceed it outside axis 1");
  message(
      "index_select",
      [=] {
        return index_select(ones({2, 3}), 0, at({-1}, {1}));
      },
      "index_select: index -1 at position [0] is outside axis 0 of size 2");
  message(
      "index_select",
      [=] {
        return index_select(ones({2, 3}), 0, at({0}, {1, 1}));
      },
      "index_select: the index must have one axis, got [1, 1]; flatten() it, and reshape() the result");
  message(
      "scatter_add",
      [=] {
        return scatter_add(ones({2, 3}), 1, at({0, 1}, {2, 1}), ones({2, 2}));
      },
      "scatter_add: the source [2, 2] must have the shape of the index [2, 1]");
  message(
      "gather", [] { return gather(ones({2}), 0, ones({1})); }, "gather: the index must be i64, got f32; convert with cast()");
}

}  // namespace norma::checks
