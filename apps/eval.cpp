// norma eval: loss and accuracy of a run's newest checkpoint on the test images.
#include "apps/model_flags.h"
#include "train/json.h"
#include "train/loop.h"

namespace norma::apps {

int eval_verb(const Args& args) {
  auto flags = read_model_flags(args, "usage: norma eval RUN [flags]\n\nLoss and accuracy of the run's newest checkpoint on the test images.\n");
  if (!flags) return ok;
  if (flags->words.size() != 1) throw UsageError("eval: name one run folder, as in norma eval runs/a");
  const std::filesystem::path run = flags->words[0];

  train::RunRecord record = train::read_run(run);
  train::TrainConfig config;
  train::Options options;
  config.fields(options);
  options.read_json(record.config.dump(), (run / "config.json").string());
  options.apply();
  config.threads = flags->config.threads;
  if (!flags->config.data_dir.empty()) config.data_dir = flags->config.data_dir;
  prepare(config);

  const datasets::ImageData data = datasets::load_images(config.data, config.data_dir);
  const models::ViTConfig shape = vit_config(config, data.train.height, data.train.channels, data.train.classes);
  const auto loader = train::loader_config(config, shape, false);
  models::ViT model(shape, 0, loader.place);
  auto found = train::RunFolder::load(run, [](const std::string& m) { fmt::print(stderr, "{}\n", m); });
  if (!found) fail("run folder {}: holds no checkpoint", run.string());
  const std::string prefix = config.ema > 0 ? "ema/" : "model/";
  nn::Named weights;
  for (auto& [name, t] : found->second)
    if (name.starts_with(prefix)) weights.emplace_back(name.substr(prefix.size()), t);
  nn::assign(model, weights);
  const train::Evaluation test = train::evaluate(model, data.test, loader);
  print_result({{"run", run.string()}, {"step", found->first.step}, {"test_accuracy", test.accuracy}, {"test_loss", test.loss}}, flags->json);
  return ok;
}

}  // namespace norma::apps
