#include "train/learner.h"

#include <cmath>
#include <limits>
#include <map>

#include "nn/scoring.h"
#include "train/prefix.h"

namespace norma::train {
namespace {

std::string config_text(const TrainConfig& config) {
  // What decides the bits of a run: not where it is stored, how far it goes this time, on how many threads, or what is
  // recorded of it.
  TrainConfig c = config;
  const TrainConfig defaults;
  c.record = defaults.record, c.record_every = defaults.record_every;
  c.record_images = defaults.record_images, c.record_limit_mib = defaults.record_limit_mib;
  c.out = c.data_dir = "";
  c.threads = c.steps = c.checkpoint_every = 0;
  c.anomaly = false;
  c.graph = defaults.graph;
  Json json = to_json(c);
  json.erase("cpu");  // RunState::instructions knows better
  return json.dump();
}

/// An attention function can be spelled in several ways.
bool equal(const std::string& field, const Json& a, const Json& b) {
  if (a == b) return true;
  if (field != "attention" || !a.is_string()) return false;
  try {
    return nn::parse_scoring(a.get<std::string>()) == nn::parse_scoring(b.get<std::string>());
  } catch (const Error&) {
    return false;
  }
}

/// The fields in which configurations differ, each as "\n  lr: 0.001 before, 0.5 now"; `there` and `here` are those
/// words. The first is a checkpoint's in `folder`. The field `but` may differ.
std::string differences(const std::string& first, const std::string& second, const char* there, const char* here,
                        const std::string& folder, std::string_view but = {}) {
  if (first == second) return "";
  const Json a = parse_json(first, fmt::format("configuration in the checkpoint in {}", folder)),
             b = Json::parse(second);
  if (!a.is_object())
    fail("configuration in the checkpoint in {}: is no object; remove that checkpoint, and the one before it is taken",
         folder);
  const Json defaults = Json::parse(config_text({}));  // a field that a checkpoint of an earlier version lacks
  std::string text;
  for (auto& [key, value] : a.items())
    if (!b.contains(key) && key != "cpu")
      text += fmt::format("\n  {}: {} {}, unknown to this version of norma", key, value.dump(), there);
  for (auto& [key, value] : b.items())
    if (key != but && !equal(key, a.contains(key) ? a[key] : defaults[key], value))
      text += fmt::format("\n  {}: {} {}, {} {}", key, a.contains(key) ? a[key].dump() : "absent", there, value.dump(),
                          here);
  return text;
}

/// `begun` says whose the configuration before is.
void check_same(const std::string& before, const std::string& now, const std::string& begun,
                const std::string& folder) {
  if (const std::string text = differences(before, now, "before", "now", folder); !text.empty())
    throw UsageError(
        fmt::format("--resume: {} with another configuration:{}\n"
                    "to go on as it began, leave these flags out and give --config {}/config.json",
                    begun, text, folder));
}

/// Copies convert, and what was saved in another dtype was not saved by this run. Names and shapes are checked where
/// they are taken.
void check_dtypes(const nn::Named& here, const nn::Named& saved) {
  std::map<std::string, DType> dtypes;
  for (const auto& [name, t] : saved) dtypes.emplace(name, t.dtype());
  for (const auto& [name, t] : here)
    if (const auto found = dtypes.find(name); found != dtypes.end() && found->second != t.dtype())
      fail("--resume: the checkpoint's {} is {}, this run's is {}; was it made by another program?", name,
           found->second, t.dtype());
}

/// Of a gradient whose elements' squares are f32, with room for their mean's correction by adamw.
constexpr double largest_norm = 1.8e19;

}  // namespace

Learner::Learner(const TrainConfig& config, const models::ViTConfig& shape, Place place)
    : model(shape, static_cast<std::uint64_t>(config.seed), place),
      optimizer(Optimizer::make(
          {.kind = config.optimizer, .weight_decay = config.weight_decay, .momentum = config.momentum}, model)),
      ema(config.ema > 0 ? std::make_unique<Ema>(model, config.ema) : nullptr),
      state{.config = config_text(config),
            .data_hash = {},
            .test_hash = {},
            .instructions = std::string(backend(place.device).instructions()),
            .last_row = {},
            .unwritten_row = {}},
      squares_in_f32_(config.optimizer == "adamw" && place.dtype == DType::f32),
      folder_(config.out) {}

Learner::Update Learner::update(double loss, double lr, double clip) {
  optimizer->prepare(lr);
  const Tensor squares = apply(full({}, loss, {DType::f64, optimizer->device()}), clip);
  const Update update = finish(loss, squares.item(), clip);
  if (update.taken && ema) ema->update(model);
  return update;
}

/// What the sum of squares is multiplied by, so that it is infinite where the gradient, clipped, is larger than
/// largest_norm; 1 where all may be taken that is finite.
double Learner::beyond(double clip) const {
  const bool clipped = clip > 0 && clip <= largest_norm;
  return squares_in_f32_ && !clipped ? std::numeric_limits<double>::max() / (largest_norm * largest_norm) : 1;
}

Tensor Learner::apply(const Tensor& loss, double clip) {
  const Tensor squares = optimizer->gradient_squares();
  // A clip above largest_norm cuts nothing that is taken.
  const double factor = beyond(clip);
  optimizer->apply(factor > 1 ? gradient_scale(squares * factor, loss, 0) : gradient_scale(squares, loss, clip));
  return squares;
}

Learner::Update Learner::finish(double loss, double gradient_squares, double clip) {
  Update update{.gradient_norm = std::sqrt(gradient_squares), .taken = false, .why = {}, .too_large = false};
  if (!std::isfinite(loss)) {
    update.why = "the loss is not finite";
  } else if (!std::isfinite(gradient_squares)) {
    update.why = "the gradient is not finite";
  } else if (!std::isfinite(gradient_squares * beyond(clip))) {
    update.too_large = true;
    update.why = fmt::format("the gradient's norm is {:.3g}, and adamw in f32 keeps squares up to that of {:.3g}",
                             update.gradient_norm, largest_norm);
  } else {
    update.taken = true;
  }
  if (update.taken) {
    optimizer->advance();
    state.skipped_in_a_row = 0;
  } else {
    ++state.skipped;
    ++state.skipped_in_a_row;
  }
  return update;
}

nn::Named Learner::tensors() {
  nn::Named all = with_prefix("model/", nn::state(model));
  for (auto& row : with_prefix("optimizer/", optimizer->state())) all.push_back(row);
  if (ema)
    for (auto& row : with_prefix("ema/", ema->values())) all.push_back(row);
  return all;
}

void Learner::check_begun(const TrainConfig& before) const {
  check_same(config_text(before), state.config, "the run was begun", folder_);
}

void Learner::restore(const RunState& saved, const nn::Named& tensors) {
  const std::string mine = state.instructions, test_hash = state.test_hash;
  check_same(saved.config, state.config, "the checkpoint was made", folder_);
  if (saved.data_hash != state.data_hash)
    throw UsageError(fmt::format("--resume: the checkpoint was made with data set {:.12}, this one is {:.12}",
                                 saved.data_hash, state.data_hash));
  if (!saved.test_hash.empty() && saved.test_hash != state.test_hash)
    throw UsageError(fmt::format("--resume: the checkpoint was made with test images {:.12}, these are {:.12}",
                                 saved.test_hash, state.test_hash));
  check_dtypes(this->tensors(), tensors);
  state = saved, state.instructions = mine, state.test_hash = test_hash;
  nn::assign(model, without_prefix("model/", tensors));
  optimizer->load(without_prefix("optimizer/", tensors));
  if (ema) ema->load(without_prefix("ema/", tensors));
}

void check_made_with(const TrainConfig& config, const RunState& saved, const std::filesystem::path& checkpoint,
                     const std::filesystem::path& folder) {
  const std::string text =
      differences(saved.config, config_text(config), "in the checkpoint", "in config.json", folder.string(), "device");
  if (!text.empty())
    fail("{}: was made with another configuration than {}:{}\nput the file back that is not of this run",
         checkpoint.string(), (folder / "config.json").string(), text);
}

}  // namespace norma::train
