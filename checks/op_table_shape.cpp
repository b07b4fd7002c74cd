// Shapes, views, joining and moving.
#include "checks/op_case.h"

namespace norma::checks {

namespace {

void add_messages(ErrorCases& errors) {
  const auto add = [&](const char* op, std::function<void()> run, const char* text) {
    errors.push_back({op, std::move(run), text});
  };
  add(
      "transpose",
      [] {
        return transpose(ones({2, 3}), 0, 2);
      },
      "transpose: axis 2 out of range [-2, 1] for shape [2, 3]");
  add(
      "reshape",
      [] {
        return reshape(ones({2, 3}), {4, 2});
      },
      "reshape: 6 elements cannot become [4, 2] (8 elements)");
  add(
      "reshape",
      [] {
        return reshape(ones({2, 3}), {4, -1});
      },
      "reshape: 6 elements cannot become [4, -1]");
  add(
      "reshape",
      [] {
        return reshape(ones({2, 3}), {-1, -1});
      },
      "reshape: only one size may be -1, got [-1, -1]");
  add(
      "permute",
      [] {
        return permute(ones({2, 3}), {0});
      },
      "permute: 1 axes are given for [2, 3]");
  add(
      "permute",
      [] {
        return permute(ones({2, 3}), {0, -2});
      },
      "permute: axis -2 is given twice for [2, 3]");
  add(
      "squeeze",
      [] {
        return squeeze(ones({2, 3}), 1);
      },
      "squeeze: axis 1 of [2, 3] has size 3, not 1");
  add(
      "expand",
      [] {
        return expand(ones({2, 3}), {4, 3});
      },
      "expand: [2, 3] cannot become [4, 3]: axis 0 is 2");
  add(
      "expand",
      [] {
        return expand(ones({3}), {-1, 3});
      },
      "expand: a size is negative, got [-1, 3]; -1 does not stand for an axis as it is, give its size");
  add(
      "stack",
      [] {
        return stack(Tensors{ones({2, 3}), ones({2, 3})}, 3);
      },
      "stack: axis 3 out of range [-3, 2] for a new axis of shape [2, 3]");
  add(
      "unsqueeze",
      [] {
        return unsqueeze(ones({2, 3}), 4);
      },
      "unsqueeze: axis 4 out of range [-3, 2] for a new axis of shape [2, 3]");
  add(
      "slice", [] { return slice(ones({3}), 0, 0, 3, 0); }, "slice: the step must not be 0");
  add(
      "select",
      [] {
        return select(ones({3, 2}), 0, 3);
      },
      "select: index 3 is outside axis 0 of [3, 2]");
  add(
      "cat", [] { return cat(Tensors{}, 0); }, "cat: needs at least one tensor");
  add(
      "cat",
      [] {
        return cat(Tensors{ones({2, 3}), ones({2, 4})}, 0);
      },
      "cat: tensor 1 has shape [2, 4], expected [*, 3] to join along axis 0");
  add(
      "stack",
      [] {
        return stack(Tensors{ones({2}), ones({3})}, 0);
      },
      "stack: tensor 1 has shape [3], the first has [2]");
  add(
      "split", [] { split(ones({3}), 0, 0); }, "split: the size of a part must be at least 1, got 0");
  add(
      "pad", [] { return pad(ones({3}), 0, -1, 0); }, "pad: -1 before and 0 after must not be negative; cut with slice()");
  add(
      "flatten",
      [] {
        return flatten(ones({2, 3}), 1, 0);
      },
      "flatten: the first axis 1 comes after the last 0 in [2, 3]");
  add(
      "rearrange",
      [] {
        return rearrange(ones({2, 3}), "a b c -> a");
      },
      "rearrange: \"a b c -> a\" names 3 axes, x is [2, 3]");
  add(
      "rearrange",
      [] {
        return rearrange(ones({2, 3}), "a b");
      },
      "rearrange: \"a b\" has no ->");
  add(
      "rearrange",
      [] {
        return rearrange(ones({2, 3}), "a b -> b");
      },
      "rearrange: a is only on the left of \"a b -> b\"");
  add("rearrange", [] { return rearrange(ones({2}), "(a b) -> a b", {{"a", Index{1} << 40}, {"b", Index{1} << 40}}); },
      "rearrange: the size of b is too large (1099511627776)");
  const auto long_row = [] { return expand(ones({}), {Index{1} << 62}); };
  add("cat", [=] { return cat({long_row(), long_row()}, 0); }, "cat: the sizes along axis 0 add up to more than 9223372036854775807");
  add("rearrange", [] { return rearrange(ones({2, 3, 4}), "b ... -> b"); }, "rearrange: ... is only on the left of \"b ... -> b\"");
  add(
      "rearrange",
      [] {
        return rearrange(ones({2, 3}), "a (b c) -> a b c", {{"b", 2}});
      },
      "rearrange: axis 1 of [2, 3] is 3, which does not split into (b c) with 2 known");
}

}  // namespace

void add_shapes(OpCases& cases, ErrorCases& errors) {
  const auto add = [&](const char* op, const char* variant, const Shape& shape,
                       std::function<Tensor(const Tensor&)> f) {
    cases.push_back(
        {.op = op, .variant = variant, .inputs = {real(shape)}, .run = [f](In x) { return f(x[0]); }, .order = 1});
  };
  const auto join = [&](const char* op, const char* variant, std::vector<Input> inputs, std::function<Tensor(In)> f) {
    cases.push_back({.op = op, .variant = variant, .inputs = std::move(inputs), .run = std::move(f), .order = 1});
  };

  add("reshape", "merge", {2, 3, 2}, [](const Tensor& x) { return reshape(x, {6, 2}); });
  add("reshape", "-1", {2, 3, 2}, [](const Tensor& x) { return reshape(x, {-1, 4}); });
  add("reshape", "Shape", {2, 3}, [](const Tensor& x) { return reshape(x, Shape{3, 2, 1}); });
  add("reshape", "to 0-d", {1, 1}, [](const Tensor& x) { return reshape(x, Shape{}); });
  add("reshape", "empty", {0, 3}, [](const Tensor& x) { return reshape(x, {3, 0, 2}); });
  add("flatten", "", {2, 3, 2}, [](const Tensor& x) { return flatten(x); });
  add("flatten", "tail", {2, 3, 2}, [](const Tensor& x) { return flatten(x, 1); });
  add("flatten", "0-d", {}, [](const Tensor& x) { return flatten(x); });
  add("permute", "", {2, 3, 4}, [](const Tensor& x) { return permute(x, {2, 0, 1}); });
  add("permute", "span", {2, 3}, [](const Tensor& x) { return permute(x, std::vector<int>{1, 0}); });
  add("transpose", "", {2, 3}, [](const Tensor& x) { return transpose(x); });
  add("transpose", "0 2", {2, 3, 4}, [](const Tensor& x) { return transpose(x, 0, 2); });
  add("squeeze", "", {2, 1, 3}, [](const Tensor& x) { return squeeze(x, 1); });
  add("unsqueeze", "", {2, 3}, [](const Tensor& x) { return unsqueeze(x, -1); });
  add("unsqueeze", "0-d", {}, [](const Tensor& x) { return unsqueeze(x, 0); });
  add("expand", "", {3, 1}, [](const Tensor& x) { return expand(x, {2, 3, 4}); });
  add("expand", "0-d", {}, [](const Tensor& x) { return expand(x, {2, 2}); });
  add("slice", "", {5, 3}, [](const Tensor& x) { return slice(x, 0, 1, 4); });
  add("slice", "step", {2, 7}, [](const Tensor& x) { return slice(x, 1, 1, 100, 2); });
  add("slice", "from the end", {6}, [](const Tensor& x) { return slice(x, 0, -4, -1); });
  add("slice", "backwards", {6}, [](const Tensor& x) { return slice(x, 0, 4, 0, -2); });
  add("slice", "nothing", {4, 2}, [](const Tensor& x) { return slice(x, 0, 2, 2); });
  add("select", "", {3, 4}, [](const Tensor& x) { return select(x, 0, 1); });
  add("select", "last", {3, 4}, [](const Tensor& x) { return select(x, -1, -1); });
  add("split", "", {5, 2}, [](const Tensor& x) {
    const Tensors parts = split(x, 2, 0);
    return cat(Tensors{parts[2], parts[0] * 2.0, parts[1]}, 0);
  });
  add("pad", "", {2, 3}, [](const Tensor& x) { return pad(x, 1, 1, 2); });
  add("pad", "value", {2, 3}, [](const Tensor& x) { return pad(x, 0, 0, 2, 0.5); });
  add("flip", "", {2, 3}, [](const Tensor& x) { return flip(x, 1); });
  add("roll", "", {2, 5}, [](const Tensor& x) { return roll(x, 1, 2); });
  add("roll", "two axes", {3, 2, 4}, [](const Tensor& x) { return roll(x, {{-1, 3}, {0, -1}}); });
  add("roll", "backwards, far", {5, 2}, [](const Tensor& x) { return roll(x, 0, -7); });
  add("tril", "", {2, 3, 4}, [](const Tensor& x) { return tril(x); });
  add("tril", "one up", {4, 3}, [](const Tensor& x) { return tril(x, 1); });
  add("triu", "one down", {3, 4}, [](const Tensor& x) { return triu(x, -1); });
  add("triu", "beyond", {3, 2}, [](const Tensor& x) { return triu(x, 2); });
  add("contiguous", "", {2, 3}, [](const Tensor& x) { return contiguous(transpose(x)); });
  add("clone", "", {2, 3}, [](const Tensor& x) { return clone(transpose(x)); });
  add("cast", "f64", {2, 3}, [](const Tensor& x) { return cast(x, DType::f64); });
  add("cast", "back", {2, 3}, [](const Tensor& x) {
    const Tensor wide = cast(x, DType::f64);
    return cast(wide, x.dtype());
  });
  cases.push_back({.op = "cast",
                   .variant = "bool",
                   .inputs = {nonzero({2, 3})},
                   .run = [](In x) { return cast(x[0], DType::boolean); },
                   .order = 0});
  cases.push_back({.op = "cast",
                   .variant = "i64",
                   .inputs = {real({2, 3}, -5, 5)},
                   .run = [](In x) { return cast(x[0], DType::i64); },
                   .order = 0});
  add("to", "another device and back", {2, 3}, [](const Tensor& x) {
    const Tensor dense = contiguous(x);
    const Device other{dense.device().kind == Device::Kind::cpu ? Device::Kind::reference : Device::Kind::cpu, 0};
    return to(to(dense, other), dense.device());
  });
  add("rearrange", "split heads", {2, 3, 4}, [](const Tensor& x) {
    return rearrange(x, "b t (h d) -> b h t d", {{"h", 2}});
  });
  add("rearrange", "merge heads", {2, 2, 3, 2}, [](const Tensor& x) { return rearrange(x, "b h t d -> b t (h d)"); });
  add("rearrange", "patches", {1, 2, 4, 6}, [](const Tensor& x) {
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", {{"p", 2}, {"q", 3}});
  });

  join("cat", "", {real({2, 3}), real({1, 3}), real({2, 3})}, [](In x) { return cat(x, 0); });
  join("cat", "last axis", {real({2, 3}), real({2, 1})}, [](In x) { return cat(x, -1); });
  join("cat", "one empty", {real({2, 0}), real({2, 3})}, [](In x) { return cat(x, 1); });
  join("stack", "", {real({2, 3}), real({2, 3})}, [](In x) { return stack(x, 1); });
  join("stack", "0-d", {real({}), real({}), real({})}, [](In x) { return stack(x, 0); });

  add_messages(errors);
}

}  // namespace norma::checks
