#include "apps/run_model.h"

#include "train/learner.h"
#include "train/loop.h"
#include "train/prefix.h"

namespace norma::apps {

std::string RunModel::told() const {
  return weights == std::string_view("averaged") ? fmt::format(", averaged weights (--ema {})", config.ema) : "";
}

namespace {

/// A run that was trained on a GPU is computed on the CPU where there is no such GPU, and that is told.
void choose_device(train::TrainConfig& config, const std::filesystem::path& run) {
  if (!config.device.starts_with("cuda")) return;
  try {
    backend(parse_device(config.device));
  } catch (const Error& e) {
    tell("{}: was trained on {}; this machine computes it on the CPU ({})\n", run.string(), config.device, e.what());
    config.device = "cpu";
  }
}

}  // namespace

RunModel load_run_model(const std::filesystem::path& named, Index threads, const std::string& data_dir, Wanted wanted) {
  RunModel out;
  std::error_code ignored;
  const bool is_checkpoint = named.extension() == ".safetensors" && std::filesystem::is_regular_file(named, ignored);
  if (is_checkpoint && wanted.initial)
    throw UsageError(
        fmt::format("--initial: {} is a checkpoint, of trained weights; name the run's folder", named.string()));
  const std::filesystem::path run = out.folder = !is_checkpoint            ? named
                                                 : named.has_parent_path() ? named.parent_path()
                                                                           : ".";
  const train::TrainConfig written = out.config =
      train::written_config(train::read_run_head(run).config, (run / "config.json").string());
  out.config.threads = threads;
  out.config.cpu.clear();  // another machine may have trained it
  if (!data_dir.empty()) out.config.data_dir = data_dir, out.config.files.erase("data_dir");
  models::ViTConfig shape = as_written([&] {
    check_fields(out.config);
    choose_device(out.config, run);
    prepare(out.config);
    out.data = datasets::load_images(out.config.data, out.config.data_dir, out.config.file_of("data_dir"));
    return vit_config(out.config, out.data.train);
  });
  if (wanted.matrices) shape.form = AttentionForm::quadratic;
  out.model = std::make_unique<models::ViT>(shape, static_cast<std::uint64_t>(out.config.seed),
                                            train::loader_config(out.config, shape, false).place);
  out.weights = wanted.initial ? "initial" : out.config.ema > 0 ? "averaged" : "trained";
  if (wanted.initial) return out;

  std::optional<std::pair<train::RunState, nn::Named>> found;
  if (is_checkpoint)
    found = train::RunFolder::load_checkpoint(named);
  else
    found = train::RunFolder::load(run, [](const std::string& m) { tell("{}\n", m); });
  if (!found) fail("run folder {}: holds no checkpoint", run.string());
  out.step = found->first.step;
  check_made_with(written, found->first, is_checkpoint ? named : train::checkpoint_file(run, out.step), run);
  nn::assign(*out.model, train::without_prefix(out.config.ema > 0 ? "ema/" : "model/", found->second));
  return out;
}

}  // namespace norma::apps
