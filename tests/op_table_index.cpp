// Ops that take index tensors.
#include "tests/op_case.h"

namespace norma::test {

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
  cases.push_back({.op = "embedding",
                   .variant = "70x33",
                   .inputs = {real({70, 33}), index({4, 50}, 70)},
                   .run = [](In x) { return embedding(x[0], x[1]); },
                   .order = 1,
                   .large = true});
  static_cast<void>(errors);
}

}  // namespace norma::test
