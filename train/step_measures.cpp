#include "train/step_measures.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "autograd/ops.h"
#include "core/backend.h"

namespace norma::train {
namespace {

double norm_of(const Tensor& t) { return std::sqrt(sum_of_squares(t)); }

/// Rounded to the seven digits that weights in f32 carry: half as long in the file.
double rounded(double v) {
  const std::string text = fmt::format("{:.7g}", v);
  std::from_chars(text.data(), text.data() + text.size(), v);  // whatever decimal point the process's locale has
  return v;
}

}  // namespace

Json attention_json(inspect::Probe& probe) {
  Json layers = Json::array();
  for (auto& [place, s] : probe.take_attention()) {
    Json row = {{"place", place}};
    for (const auto& [name, field] : inspect::head_stats) row[name] = s.*field;
    for (const auto& [name, field] : {std::pair{"fro_error", &s.fro_error}, {"sampled", &s.sampled}})
      if (std::none_of(field->begin(), field->end(), [](double v) { return v > 0; })) row.erase(name);
    if (s.entropy.empty() || !std::isfinite(s.entropy[0])) row.erase("entropy");
    layers.push_back(std::move(row));
  }
  return layers;
}

ParameterWatch::ParameterWatch(nn::Module& model) {
  NoGrad watching;
  nn::for_each_parameter(model, [&](const std::string& name, Tensor& p) {
    const Tensor before = empty(p.shape(), place_of(p)), grad = p.grad();
    copy_into(before, p.detach());
    rows_.push_back({name, p, before, norm_of(before), grad ? norm_of(grad) : 0});
  });
}

Json ParameterWatch::after_step() const {
  NoGrad watching;
  Json out = Json::object();
  for (const Row& r : rows_) {
    Json& measures = out[r.name] = {{"weight", rounded(r.weight)}, {"grad", rounded(r.grad)}};
    if (r.weight != 0) measures["update"] = rounded(norm_of(r.parameter.detach() - r.before) / r.weight);
  }
  return out;
}

}  // namespace norma::train
