// Reductions and scans.
#include "checks/op_case.h"

namespace norma::checks {

namespace {

using Reduction = Tensor (*)(const Tensor&, const Axes&, bool);

/// Every choice of axes that goes another way through the kernels. `input` makes the values for a shape.
template <class MakeInput>
void add_reduction(OpCases& cases, const char* op, Reduction f, MakeInput input, int order) {
  cases.push_back({.op = op,
                   .variant = "all",
                   .inputs = {input({2, 3, 2})},
                   .run = [f](In x) { return f(x[0], {}, false); },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "last",
                   .inputs = {input({2, 3})},
                   .run = [f](In x) { return f(x[0], {-1}, false); },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "first",
                   .inputs = {input({3, 2})},
                   .run = [f](In x) { return f(x[0], {0}, true); },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "middle",
                   .inputs = {input({2, 3, 2})},
                   .run = [f](In x) { return f(x[0], {1}, false); },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "outer two",
                   .inputs = {input({2, 3, 2})},
                   .run =
                       [f](In x) {
                         return f(x[0], {0, 2}, true);
                       },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "0-d",
                   .inputs = {input({})},
                   .run = [f](In x) { return f(x[0], {}, false); },
                   .order = order});
  cases.push_back({.op = op,
                   .variant = "no row",
                   .inputs = {input({0, 3})},
                   .run = [f](In x) { return f(x[0], {1}, false); },
                   .order = order});
  for (int axis : {0, 1, 2}) {
    cases.push_back({.op = op,
                     .variant = fmt::format("7x33x19 axis {}", axis),
                     .inputs = {input({7, 33, 19})},
                     .run = [f, axis](In x) { return f(x[0], {axis}, false); },
                     .order = order,
                     .large = true,
                     .condition = 64});
  }
  cases.push_back({.op = op,
                   .variant = "50x331 all",
                   .inputs = {input({50, 331})},
                   .run = [f](In x) { return f(x[0], {}, false); },
                   .order = order,
                   .large = true,
                   .condition = 256});
}

}  // namespace

void add_reductions(OpCases& cases, ErrorCases& errors) {
  const auto any = [](const Shape& s) { return real(s); };
  const auto apart = [](const Shape& s) { return distinct(s); };
  add_reduction(cases, "sum", sum, any, 1);
  add_reduction(cases, "mean", mean, any, 1);
  add_reduction(cases, "max", max, apart, 1);
  add_reduction(cases, "min", min, apart, 1);
  add_reduction(
      cases, "norm", norm, [](const Shape& s) { return nonzero(s); }, 2);
  cases.push_back({.op = "sum",
                   .variant = "no column",
                   .inputs = {real({3, 0})},
                   .run = [](In x) { return sum(x[0], {1}); },
                   .order = 1});

  cases.push_back({.op = "var", .inputs = {real({2, 3})}, .run = [](In x) { return var(x[0]); }});
  cases.push_back({.op = "var", .variant = "axis 0, population", .inputs = {real({4, 2})}, .run = [](In x) {
                     return var(x[0], {0}, true, 0);
                   }});
  cases.push_back({.op = "var",
                   .variant = "mean 3000",
                   .inputs = {real({4, 16}, 2999, 3001)},
                   .run = [](In x) { return var(x[0], {-1}); },
                   .large = true,
                   .condition = 1e4,
                   .bf16 = 0});
  cases.push_back({.op = "stddev", .inputs = {real({2, 3})}, .run = [](In x) { return stddev(x[0]); }});
  cases.push_back({.op = "stddev", .variant = "axis 0, population", .inputs = {real({4, 2})}, .run = [](In x) {
                     return stddev(x[0], {0}, true, 0);
                   }});
  for (auto [op, f] : {std::pair<const char*, Reduction>{"any", norma::any}, std::pair<const char*, Reduction>{"all", norma::all}}) {
    const auto over = [&cases, op = op, f = f](const char* variant, const Shape& shape, const Axes& axes) {
      cases.push_back({.op = op,
                       .variant = variant,
                       .inputs = {flags(shape)},
                       .run = [f, axes](In x) { return f(x[0], axes, false); },
                       .order = 0});
    };
    over("", {5, 3}, {1}), over("whole", {5, 3}, {}), over("nothing", {3, 0}, {1});
  }
  cases.push_back({.op = "logsumexp", .inputs = {real({2, 3})}, .run = [](In x) { return logsumexp(x[0], -1); }});
  cases.push_back({.op = "logsumexp", .variant = "axis 0", .inputs = {real({3, 2}, -5, 5)}, .run = [](In x) {
                     return logsumexp(x[0], 0, true);
                   }});
  cases.push_back({.op = "logsumexp",
                   .variant = "large values",
                   .inputs = {real({3, 4}, 900, 1100)},
                   .run = [](In x) { return logsumexp(x[0], 1); },
                   .order = 2,
                   .large = true});

  using Search = Tensor (*)(const Tensor&, int, bool);
  for (auto [op, f] :
       {std::pair<const char*, Search>{"argmax", argmax}, std::pair<const char*, Search>{"argmin", argmin}}) {
    cases.push_back(
        {.op = op, .inputs = {distinct({2, 3})}, .run = [f = f](In x) { return f(x[0], -1, false); }, .order = 0});
    cases.push_back({.op = op,
                     .variant = "axis 0",
                     .inputs = {distinct({5, 3, 2})},
                     .run = [f = f](In x) { return f(x[0], 0, true); },
                     .order = 0});
    cases.push_back({.op = op,
                     .variant = "ties take the first",
                     .inputs = {index({6, 40}, 3)},
                     .run = [f = f](In x) { return f(x[0], 1, false); },
                     .order = 0});
    cases.push_back({.op = op,
                     .variant = "no row",
                     .inputs = {distinct({0, 4})},
                     .run = [f = f](In x) { return f(x[0], 1, false); },
                     .order = 0});
  }
  cases.push_back({.op = "cumsum", .inputs = {real({2, 3})}, .run = [](In x) { return cumsum(x[0], 1); }, .order = 1});
  cases.push_back({.op = "cumsum",
                   .variant = "axis 0",
                   .inputs = {real({3, 2, 2})},
                   .run = [](In x) { return cumsum(x[0], 0); },
                   .order = 1});
  cases.push_back({.op = "cumsum",
                   .variant = "empty",
                   .inputs = {real({3, 0})},
                   .run = [](In x) { return cumsum(x[0], 1); },
                   .order = 1});
  cases.push_back({.op = "sum_to",
                   .inputs = {real({2, 3, 4})},
                   .run =
                       [](In x) {
                         return sum_to(x[0], {3, 1});
                       },
                   .order = 1});
  cases.push_back({.op = "sum_to",
                   .variant = "0-d",
                   .inputs = {real({2, 3})},
                   .run = [](In x) { return sum_to(x[0], {}); },
                   .order = 1});
  cases.push_back({.op = "sum_to",
                   .variant = "same",
                   .inputs = {real({2, 3})},
                   .run =
                       [](In x) {
                         return sum_to(x[0], {2, 3});
                       },
                   .order = 1});

  errors.push_back({"sum", [] { return sum(ones({2, 3}), {5}); }, "sum: axis 5 out of range [-2, 1] for shape [2, 3]"});
  errors.push_back({"sum", [] { return sum(ones({2, 3}), {0, -2}); }, "sum: the axes 0 and -2 of [2, 3] are the same"});
  errors.push_back({"mean", [] { return mean(ones({2, 3}), {5}); }, "mean: axis 5 out of range [-2, 1] for shape [2, 3]"});
  errors.push_back({"any", [] { return norma::any(ones({2, 3}), {1, 1}); }, "any: axis 1 of [2, 3] is given twice"});
  errors.push_back({"all", [] { return all(ones({2, 3}), {-3}); }, "all: axis -3 out of range [-2, 1] for shape [2, 3]"});
  errors.push_back({"sum_to", [] { return sum_to(ones({2, 3}), {2}); }, "sum_to: [2] does not broadcast to [2, 3]"});
  errors.push_back({"argmax",
                    [] {
                      return argmax(ones({2, 0}), 1);
                    },
                    "argmax: axis 1 of [2, 0] is empty and argmax has no identity"});
  errors.push_back({"cumsum", [] { return cumsum(ones({2}), 1); }, "cumsum: axis 1 out of range [-1, 0] for shape [2]"});
  errors.push_back({"logsumexp", [] { return logsumexp(ones({}), 0); }, "logsumexp: axis 0 out of range, [] has no axes"});
  errors.push_back({"max", [] { return max(ones({2, 0}), {1}); }, "max: axis 1 of [2, 0] is empty and max has no identity"});
}

}  // namespace norma::checks
