// norma inspect: one forward pass of a trained model on one image; a table and a page with the attention matrix of
// every head.
#include <algorithm>
#include <cmath>

#include "apps/run_model.h"
#include "core/atomic_file.h"
#include "datasets/pnm.h"
#include "inspect/heads_page.h"
#include "inspect/probe.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* usage = R"(usage: norma inspect RUN|CHECKPOINT [flags]

One forward pass of the run's newest checkpoint, or of the one that is named, on one image: a table of every head's norms, and a page (one file, no
network) with every head's attention matrix and, for any patch, where it looks. The matrix is computed also where the run has attention
in linear form, and with --ema the weights are the averaged ones, as in norma eval. Blocks and heads count from 0, as in blocks.0.attn.
)";

/// NaN: there is none. inf: an entry, or a sum that is too large for the dtype.
std::string shown(double v, const char* format) { return std::isnan(v) ? "-" : fmt::format(fmt::runtime(format), v); }

std::string stem(const std::filesystem::path& file) { return file.stem().string(); }

/// The image that is looked at, as a set of one, and what it is called.
struct Chosen {
  datasets::ImageSet set;
  std::string what;
};
Chosen test_image(const datasets::ImageSet& test, Index index) {
  if (index < 0 || index >= test.count)
    throw UsageError(fmt::format("--index: there is no test image {}; they go from 0 to {}", index, test.count - 1));
  Chosen one{slice(test, index, 1), {}};
  one.what = fmt::format("test image {} ({})", index, class_name(test, one.set.labels[0]));
  return one;
}
Chosen own_image(const datasets::ImageSet& test, const std::string& file, bool invert) {
  Chosen one{slice(test, 0, 1), file};
  one.set.height = one.set.width = std::max(test.height, test.width);
  datasets::Picture picture = datasets::squared(datasets::read_pnm(file));
  picture = datasets::fitted(picture, one.set.height, test.channels);
  one.set.pixels.assign(picture.pixels.begin(), picture.pixels.end());
  if (invert)
    for (std::uint8_t& p : one.set.pixels) p = static_cast<std::uint8_t>(255 - p);
  return one;
}

/// One object a head; what is not finite becomes null where it is printed as JSON.
Json heads_json(const std::vector<inspect::HeadsLayer>& layers) {
  Json heads = Json::array();
  for (const inspect::HeadsLayer& l : layers)
    for (std::size_t h = 0; h < l.stats.fro.size(); ++h) {
      Json head = {{"place", l.place}, {"head", h}};
      for (const auto& [name, field] : inspect::head_stats) head[name] = (l.stats.*field)[h];
      heads.push_back(std::move(head));
    }
  return heads;
}

void print_heads(const Json& heads) {
  fmt::print("{:<20} {:>4} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "place", "head", "||A||_F", "||dA/dS||_F",
             "row sum", "least", "largest", "negative", "entropy");
  for (const Json& h : heads) {
    const auto text = [&](const char* key, const char* format, double factor = 1) {
      return shown(h[key].get<double>() * factor, format);
    };
    fmt::print("{:<20} {:>4} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9}\n", h["place"].get<std::string>(),
               h["head"].get<Index>(), text("fro", "{:.4g}"), text("jacobian", "{:.4g}"), text("row_sum", "{:.4g}"),
               text("min", "{:.3g}"), text("max", "{:.3g}"), text("negative_share", "{:.1f} %", 100),
               text("entropy", "{:.3g}"));
  }
}

}  // namespace

int inspect_verb(const Args& args) {
  std::string image, html, data_dir;
  Index index = 0, threads = 0;
  bool initial = false, invert = false;
  train::Options options;
  options("index", index, "which test image, from 0");
  options("image", image,
          "a picture of your own instead: binary PGM or PPM; it is padded to a square and fitted to the model's size");
  options("invert", invert,
          "bright and dark exchanged: of a dark object on white paper, since Fashion-MNIST's are bright on black");
  options("initial", initial, "the weights the run started from, step 0, instead of its newest checkpoint");
  options("html", html,
          "where to write the page; left out: in the run folder, inspect-INDEX.html or inspect-NAME.html, with "
          "-initial or -step-STEP");
  options("data_dir", data_dir,
          "folder of the images, or of data sets; without it they are read where norma data says");
  options("threads", threads, "CPU threads; 0: all cores");
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [runs, json] = *given;
  if (runs.size() != 1) throw UsageError("inspect: name one run folder, as in norma inspect runs/a");
  if (options.given("html") && html.empty())
    throw UsageError("--html: is empty; name a file, or leave it out for one in the run folder");
  if (options.given("image") && image.empty())
    throw UsageError("--image: is empty; name a PGM or PPM file, or leave it out for a test image");
  if (invert && image.empty()) throw UsageError("--invert: is for a picture of your own; name it with --image");
  if (!image.empty() && options.given("index"))
    throw UsageError("inspect: --image and --index are two ways to name one image; give one of them");
  check_threads(threads);
  const RunModel run = load_run_model(runs[0], threads, data_dir, {.initial = initial, .matrices = true});
  if (html.empty())
    html = (run.folder / fmt::format("inspect-{}{}.html", image.empty() ? std::to_string(index) : stem(image),
                                     initial                 ? "-initial"
                                     : run.folder != runs[0] ? fmt::format("-step-{}", run.step)
                                                             : ""))
               .string();
  const models::ViTConfig& shape = run.model->config();
  const datasets::ImageSet& test = run.data.test;

  const auto& [one, what] = image.empty() ? test_image(test, index) : own_image(test, image, invert);
  datasets::Loader loader(one, train::loader_config(run.config, shape, false));
  const datasets::Batch batch = loader.next();
  inspect::Probe probe(*run.model);
  probe.value("blocks.*.attn.weights", inspect::keep_all()).attention("blocks.*.attn.stats");
  const NoGrad off;
  const std::vector<double> share = softmax((*run.model)(batch.images)).values();
  const auto best = static_cast<std::size_t>(std::max_element(share.begin(), share.end()) - share.begin());
  const std::string best_class = class_name(test, static_cast<Index>(best));

  tell("{}\n", probe.take_formed());
  inspect::HeadsPage page;
  std::map<std::string, Tensors> matrices = probe.take_values();
  for (auto& [place, stats] : probe.take_attention()) {
    const std::string layer = place.substr(0, place.rfind('.'));
    page.layers.push_back({layer, stats, select(matrices.at(layer + ".weights").at(0), 0, 0)});
  }
  const std::string answer = std::isfinite(share[best]) ? fmt::format("{} ({:.1f} %)", best_class, share[best] * 100)
                                                        : "nothing, its outputs are not finite";
  page.title = fmt::format("{}: {}", runs[0], what);
  page.summary = fmt::format("{} after step {}{}; the model says: {}.", nn::to_string(shape.attention), run.step,
                             run.told(), answer);
  page.side = shape.image, page.channels = shape.channels, page.pixels = centred(one, shape.image),
  page.patch = shape.patch;
  page.class_token = shape.pool == models::ViTConfig::Pool::cls;
  const Json heads = heads_json(page.layers);
  if (json) {
    print_result({{"run", runs[0]},
                  {"step", run.step},
                  {"weights", run.weights},
                  {"image", what},
                  {"answer", std::isfinite(share[best]) ? Json(best_class) : nullptr},
                  {"share", share[best]},
                  {"heads", heads},
                  {"html", html}},
                 true);
  } else {
    fmt::print("{}: {}\nattention {}, N = {}, sqrt(N) = {:.3g}{}; the model says: {}\n\n", runs[0], what,
               nn::to_string(shape.attention), shape.tokens(), std::sqrt(static_cast<double>(shape.tokens())),
               run.told(), answer);
    if (shape.clamp_fro > 0)
      fmt::print(
          "This run clamps ||A||_F to {:.4g}; ||dA/dS||_F is that of the attention function before the clamp.\n\n",
          shape.clamp_fro);
    print_heads(heads);
  }
  write_atomically(html,
                   inspect::make_heads_page(page));  // last: where it cannot be written the table is there
  if (!json) fmt::print("\npage: {}\n", html);
  return ok;
}

}  // namespace norma::apps
