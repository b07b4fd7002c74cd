#include "train/constraint.h"

#include <charconv>
#include <cmath>

#include "core/suggest.h"
#include "nn/tap.h"
#include "train/options.h"

namespace norma::train {

double parse_fro(const std::string& where, const std::string& text) {
  if (text.empty()) return 0;
  const auto wrong = [&](const std::string& what) { throw UsageError(fmt::format("{}: {}", where, what)); };
  const auto number = [](std::string_view s) {
    double value = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
    return error == std::errc{} && end == s.data() + s.size() ? value : std::nan("");
  };
  const std::vector<std::string> norms = {"fro"};
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) {
    if (!std::isnan(number(text))) wrong(fmt::format("\"{}\" names no norm (did you mean \"fro:{}\"?)", text, text));
    const std::string near = suggest(text, norms);
    wrong(near.empty() ? fmt::format("\"{}\" is unknown; write fro:NUMBER, as in fro:0.01", text)
                       : fmt::format("\"{}\" has no number; write {}:NUMBER, as in fro:0.01", text, near));
  }
  const std::string norm = text.substr(0, colon), amount = text.substr(colon + 1);
  if (norm != "fro") wrong(fmt::format("norm \"{}\" is unknown{}; there is: fro", norm, did_you_mean(norm, norms)));
  const double value = number(amount);
  if (std::isnan(value))
    wrong(fmt::format("\"{}\" in \"{}\" is not a number; write fro:NUMBER, as in fro:0.01", amount, text));
  if (!(value > 0 && std::isfinite(value)))
    wrong(fmt::format("{} in \"{}\" must be more than 0 and finite", amount, text));
  return value;
}

struct FroNorms::Impl {
  std::vector<std::pair<nn::Tap*, int>> listening;
  Tensors means;  // one for each call
};

FroNorms::FroNorms(nn::Module& model) : impl_(std::make_unique<Impl>()) {
  nn::for_each_tap(model, [this](const std::string& name, nn::Tap& tap) {
    if (name != "weights" && !name.ends_with(".weights")) return;
    impl_->listening.emplace_back(&tap, tap.on_value([this](const Tensor& a) {
      impl_->means.push_back(mean(norm(a, {-2, -1})));
    }));
  });
}

FroNorms::~FroNorms() {
  for (const auto& [tap, id] : impl_->listening) tap->remove(id);
}

Tensor FroNorms::take() {
  const Tensors means = std::exchange(impl_->means, {});
  if (means.empty()) fail("penalty: no attention layer ran");
  return mean(stack(means, 0));
}

}  // namespace norma::train
