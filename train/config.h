// All that says what a training run is. config.json of a run folder holds exactly these fields.
#pragma once

#include <map>

#include "datasets/dataset.h"
#include "models/vit.h"
#include "train/optimizer.h"
#include "train/options.h"

namespace norma::train {

struct TrainConfig {
  std::string model = "vit", preset = "tiny", attention = "softmax", pool = "cls", positions = "learned", clamp, attention_form = "auto";
  Index image = 0, patch = 4, channels = 0, classes = 0, width = 192, depth = 12, heads = 3, mlp_ratio = 4;
  double drop_path = 0, dropout = 0, init_std = 0.02;

  std::string data = "fashion-mnist", data_dir;
  Index batch = 64, pad = 2;
  bool flip = true;
  Index rand_augment = 0, rand_magnitude = 9;

  Index epochs = 10, steps = 0;
  std::string optimizer = "adamw", schedule = "cosine";
  double lr = 1e-3, min_lr = 1e-6, warmup_epochs = 0.5, weight_decay = 0.05, momentum = 0.9, clip = 1, label_smoothing = 0, ema = 0;
  std::string penalty;

  std::string out = "runs/run", device = "cpu", dtype = "f32";
  Index seed = 1, threads = 0, checkpoint_every = 500, log_every = 50;
  std::string gemm = "own", cpu;
  bool anomaly = false, graph = true;

  std::string record;  // the flight recorder: see train/recorder.h
  Index record_every = 100, record_images = 4, record_limit_mib = 1024;

  std::map<std::string, std::string> files;  // no field: which file set a field, where one did
  /// How an error names a field: "--lr", or "recipe.json: lr" where a file set it.
  std::string named(const std::string& field) const;
  /// "recipe.json: " where a file set the field, else nothing: to go before an error that names no flag.
  std::string file_of(const std::string& field) const;

  template <class V>
  void fields(V& v) {
    v.group("Model");
    v("model", model, "model: vit");
    v("preset", preset, "sizes to start from: tiny (192/12/3), small (384/12/6), base (768/12/12)");
    v("attention", attention, "attention function: softmax, x^3/sqrt(N), 0.5x+x^3/14, x^2/sum(x^2), sigmoid, relu/N; all of them: norma help attention");
    v("attention_form", attention_form, "auto, quadratic, or linear (polynomials whose matrix is never formed: docs/linear-attention.md)");
    v("image", image, "image side in pixels; 0: the data set's");
    v("patch", patch, "patch side in pixels");
    v("channels", channels, "colour channels; 0: the data set's");
    v("classes", classes, "number of classes; 0: the data set's");
    v("width", width, "width of the token vectors");
    v("depth", depth, "number of blocks");
    v("heads", heads, "attention heads");
    v("mlp_ratio", mlp_ratio, "hidden width of the MLP, as a multiple of width");
    v("pool", pool, "what the head reads: cls (a class token) or mean (of all tokens)");
    v("positions", positions, "position embedding: learned, or sincos (fixed, with MAE's initial patch kernel)");
    v("drop_path", drop_path, "stochastic depth at the last of two or more blocks, from 0 at the first; from 0 to below 1");
    v("dropout", dropout, "dropout of attention weights, from 0 to below 1");
    v("clamp", clamp, "fro:C: per image and head, attention uses A min(1, C/||A||_F); forms every matrix, slow; empty: off");
    v("init_std", init_std, "standard deviation of the initial weights, patch kernel included (unlike timm); 0: 0.02 sqrt(768 / width)");
    v.group("Data");
    v("data", data, "data set: fashion-mnist, cifar-10 (see norma data)");
    v("data_dir", data_dir, "folder of the images, or of data sets; without it they are read where norma data says");
    v("batch", batch, "images a step");
    v("pad", pad, "augment: pad by so many pixels and cut a random window of the data set's own size; 0: off");
    v("flip", flip, "augment: mirror half of the images");
    v("rand_augment", rand_augment, "augment: RandAugment, so many of its 14 edits on each image; 0: off");
    v("rand_magnitude", rand_magnitude, "strength of RandAugment's edits, 0 to 30 as in torchvision; timm counts to 10, so that its 9 is 27 here");
    v.group("Optimization");
    v("epochs", epochs, "passes over the training images");
    v("steps", steps, "stop after so many steps (the schedule still spans all epochs); 0: no limit");
    v("optimizer", optimizer, "adamw or sgd");
    v("lr", lr, "peak learning rate");
    v("min_lr", min_lr, "learning rate at the end of the cosine");
    v("schedule", schedule, "cosine or constant, after the warm-up");
    v("warmup_epochs", warmup_epochs, "linear warm-up, in epochs");
    v("weight_decay", weight_decay, "weight decay: of adamw decoupled, of sgd added to the gradient (none on norms, biases, positions, class token)");
    v("momentum", momentum, "momentum of sgd, from 0 to below 1");
    v("clip", clip, "largest gradient norm; 0: no clipping");
    v("label_smoothing", label_smoothing, "share of the target spread over all classes, from 0 to below 1");
    v("penalty", penalty, "fro:W: adds W times the mean over layers, heads and images of ||A||_F to the loss; forms every matrix, slow; empty: off");
    v("ema", ema, "decay of a moving average of the weights, which every evaluation uses, below 1; 0: off");
    v.group("Run");
    v("out", out, "run folder");
    v("seed", seed, "seed of weights, data order and dropout");
    v("threads", threads, "CPU threads; 0: all cores, or a container's share of them. The result has the same bits whatever their number");
    v("device", device, "cpu, reference (slow, the oracle), cuda");
    v("dtype", dtype, "f32, f64, or bf16: activations stored in bf16, weights and optimizer in f32");
    v("graph", graph, "cuda: a step is captured once and replayed; the same bits as without");
    v("gemm", gemm, "matrix products on the CPU: own; fma: f32 by multiply-adds also where own has AMX multiply slices; or openblas");
    v("cpu", cpu,
      "instruction set of the CPU kernels: base, avx2, avx512, avx512bf16, amx; empty: what NORMA_CPU names, else the best there is. It decides the "
      "bits of a result");
    v("anomaly", anomaly, "check what every operation produces; stop at the first value that is not finite, tell where, save it for norma replay");
    v("checkpoint_every", checkpoint_every, "steps between checkpoints; 0: only at the end");
    v("log_every", log_every, "steps between lines of metrics.jsonl; the last step has one too");
    v.group("Flight recorder");
    v("record", record, "layers whose attention matrices are kept while training, e.g. \"blocks.{1,6,11}.attn\"; norma report shows them; empty: off");
    v("record_every", record_every, "steps between records");
    v("record_images", record_images, "on so many images: the first of the test set");
    v("record_limit_mib", record_limit_mib, "refuse to begin where all records together would be larger");
  }
};

/// All fields, as config.json holds them.
nlohmann::ordered_json to_json(const TrainConfig& config);
/// The configuration that a program wrote into a file, which errors call `name`: an Error, since it is not the caller's.
TrainConfig written_config(const nlohmann::ordered_json& fields, const std::string& name);
/// Sets the fields of the preset that `config.preset` names.
void apply_preset(TrainConfig& config);
/// The model that config describes, once the data set's sizes are known. Throws UsageError naming field and value.
models::ViTConfig vit_config(const TrainConfig& config, Index image, Index channels, Index classes);
/// The model that trains on these images. Throws UsageError too where it has other channels than they, or fewer classes.
models::ViTConfig vit_config(const TrainConfig& config, const datasets::ImageSet& set);

/// Of weights, gradients and images: f32 where dtype is bf16, which is that of the activations alone.
DType parameter_dtype(const TrainConfig& config);

/// Over all epochs, with the warm-up in steps.
ScheduleConfig schedule_of(const TrainConfig& config, Index steps_per_epoch);

/// The steps of a run.
struct RunSteps {
  Index per_epoch, total, last;  // total: of all epochs; last: where the run ends, which --steps may bring forward
};
RunSteps steps_of(const TrainConfig& config, Index per_epoch);

/// What to tell of a run that ends before its warm-up does, so that it never reaches its learning rate; empty: it does not.
std::string warmup_notice(const TrainConfig& config, const RunSteps& steps);
/// What to tell of a run whose moving average still holds a hundredth or more of the initial weights at its end; empty: it does not.
std::string ema_notice(const TrainConfig& config, const RunSteps& steps);

}  // namespace norma::train
