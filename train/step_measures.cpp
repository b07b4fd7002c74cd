#include "train/step_measures.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "autograd/ops.h"
#include "core/backend.h"

namespace norma::train {
namespace {

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
    const Tensor before = empty(p.shape(), place_of(p));
    copy_into(before, p.detach());
    rows_.push_back({name, p, before});
  });
  if (rows_.empty()) return;
  squares_ = zeros({static_cast<Index>(rows_.size()), measures}, {DType::f64, rows_[0].before.device()});
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    square(rows_[i].before, i, weight);
    if (const Tensor g = rows_[i].parameter.grad()) square(g, i, grad);
  }
}

void ParameterWatch::square(const Tensor& t, std::size_t row, Measure measure) const {
  const View view = t.view();
  backend(t.device())
      .sum_of_squares({&view, 1}, select(select(squares_, 0, static_cast<Index>(row)), 0, measure).view());
}

Json ParameterWatch::after_step() const {
  NoGrad watching;
  Json out = Json::object();
  if (rows_.empty()) return out;
  for (std::size_t i = 0; i < rows_.size(); ++i) square(rows_[i].parameter.detach() - rows_[i].before, i, update);
  std::vector<double> norms = squares_.values();
  for (double& x : norms) x = std::sqrt(x);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const double* norm = norms.data() + i * measures;
    Json& row = out[rows_[i].name] = {{"weight", rounded(norm[weight])}, {"grad", rounded(norm[grad])}};
    if (norm[weight] != 0) row["update"] = rounded(norm[update] / norm[weight]);
  }
  return out;
}

}  // namespace norma::train
