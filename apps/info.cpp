// norma info: what a model costs, without training it.
#include "apps/model_flags.h"
#include "core/host_limits.h"

namespace norma::apps {
namespace {

models::ViTConfig shape_of(const train::TrainConfig& c) { return vit_config(c, 224, 3, 1000); }

/// A number of operations or bytes: exact where it is a whole number of 63 bits, which the largest models exceed.
nlohmann::ordered_json whole(double x) {
  if (x < 0x1p63) return static_cast<Index>(x);
  return x;
}

void check(const ModelFlags& flags) {
  refuse_words(flags, "info");
  shape_of(flags.config);
}

}  // namespace

int info_verb(const Args& args) {
  train::TrainConfig imagenet;
  imagenet.image = 224, imagenet.patch = 16, imagenet.channels = 3, imagenet.classes = 1000;
  auto flags = read_model_flags(args, R"(usage: norma info vit [flags]

Parameters, floating-point operations of a training step, and memory of a model. No data set is read: images and classes that are left
out are those of ImageNet, and patches are of 16 pixels, where norma train has 4. Operations are those of an attention whose matrices are
formed, also where norma train would take the linear form.
)",
                                {"Model", "batch", "dtype"}, check, imagenet, [](train::Options& options) {
                                  options.describe("image", "image side in pixels; 0: 224");
                                  options.describe("channels", "colour channels; 0: 3");
                                  options.describe("classes", "number of classes; 0: 1000");
                                });
  if (!flags) return ok;
  const train::TrainConfig& c = flags->config;
  const models::ViTConfig shape = shape_of(c);
  const Index parameters = models::parameter_count(shape);
  const double bytes = c.dtype == "f64" ? 8 : 4,
               stored = c.dtype == "bf16" ? 2 : bytes;  // of a weight, of an activation
  // What the fused step keeps for the backward pass, in numbers per token and block: block input, attention output,
  // input of the MLP branch, two normalised inputs (width each), qkv (3 width) and the pre-activation (mlp_ratio
  // width). The last block keeps what lies behind its attention only for the tokens that the head reads.
  const auto tokens = static_cast<double>(shape.tokens()), depth = static_cast<double>(shape.depth),
             unread = tokens - static_cast<double>(shape.head_tokens());
  const auto behind = static_cast<double>(2 + shape.mlp_ratio);
  const double kept = static_cast<double>(c.batch) * static_cast<double>(shape.width) *
                      (tokens * depth * (6 + behind) - unread * behind);
  nlohmann::ordered_json out = {{"model", "vit"},
                                {"preset", c.preset},
                                {"attention", nn::to_string(shape.attention)},
                                {"image", shape.image},
                                {"patch", shape.patch},
                                {"channels", shape.channels},
                                {"classes", shape.classes},
                                {"width", shape.width},
                                {"depth", shape.depth},
                                {"heads", shape.heads},
                                {"tokens", shape.tokens()},
                                {"parameters", parameters},
                                {"batch", c.batch},
                                {"flops", whole(models::training_flops(shape, c.batch))},
                                {"parameter_bytes", whole(static_cast<double>(parameters) * bytes)},
                                {"training_state_bytes", whole(static_cast<double>(parameters) * bytes * 4)},
                                {"activation_bytes", whole(kept * stored)}};
  if (!flags->json) {
    const auto bytes_with = [&](const char* name, const char* what) {
      out[name] = human_bytes(out[name].get<double>()) + what;
    };
    const double flops = out["flops"].get<double>();
    const std::string operations = flops < 1e8    ? fmt::format("{:.3g} MFLOP", flops / 1e6)
                                   : flops < 1e13 ? fmt::format("{:.1f} GFLOP", flops / 1e9)
                                                  : fmt::format("{:.1f} TFLOP", flops / 1e12);
    out["flops"] = fmt::format("{} a training step of batch {}", operations, c.batch);
    bytes_with("parameter_bytes", "");
    bytes_with("training_state_bytes", ": parameters, gradients, and the two moments of AdamW");
    bytes_with("activation_bytes", " kept for the backward pass");
  }
  print_result(out, flags->json);
  return ok;
}

}  // namespace norma::apps
