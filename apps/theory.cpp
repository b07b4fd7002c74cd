// norma theory: measured norms of attention matrices beside what theory says of them, for random Q and K or for a run's
// model.
#include "inspect/theory.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "apps/progress.h"
#include "apps/run_model.h"
#include "inspect/probe.h"
#include "nn/scoring.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

using inspect::TheoryPoint;
using train::Json;
using train::number_or_null;

constexpr const char* usage = R"(usage: norma theory [flags]        random Q and K, for each N of a range
       norma theory RUN [flags]    the layers and heads of a run's newest checkpoint, or of the one that is named, on test images

Measured ||A||_F and ||dA/dS||_F of attention matrices A = phi(S), out of the kernel that computes attention, beside
sqrt N and 2 sqrt N (bounds of softmax in arXiv 2410.18613, Theorem 4.1), sqrt(N)/2 (its sharp bound of the Jacobian) and
the root of the mean square for Gaussian scores, which lies above the mean norm where N is small. Over two or more N the
power of N is fitted. Random Q, K have independent N(0, 1) entries, and S = R Q K^T / sqrt(d) with R from --score-rms. A
run's attention is computed by the matrix, also where the run itself has it in linear form; a run with --ema has its
averaged weights looked at, as norma eval does. Blocks and heads count from 0.
)";
constexpr Index most_tokens = 1 << 20;

struct Flags {
  std::string attention = "softmax, x/sqrt(N), x^2/sqrt(N), x^3/sqrt(N), x^4/sqrt(N)", tokens = "64:4096",
              dtype = "f32";
  Index width = 64, samples = 4;
  double score_rms = 1;
  Index images = 64;
  bool initial = false;
  std::string data_dir;
  bool spectral = false;
  Index seed = 1, threads = 0;
  std::string device = "cpu", log_format = "text";
  bool help = false;

  template <class V>
  void fields(V& v) {
    v.group("Random Q and K");
    v("attention", attention, "attention functions, separated by commas");
    v("tokens", tokens, "N: a list as in 64,128,197, or a range that doubles, as in 64:1024");
    v("width", width, "width d of a head");
    v("samples", samples, "independent heads for each N");
    v("score_rms", score_rms, "root mean square of the scores");
    v("seed", seed, "seed of Q and K");
    v("dtype", dtype, "f32 or f64");
    v("device", device, "cpu, reference (slow, the oracle), cuda");
    v.group("A run");
    v("images", images, "how many test images");
    v("initial", initial, "the weights the run started from, not its newest checkpoint");
    v("data_dir", data_dir, "folder of the images, or of data sets; without it they are read where norma data says");
    v.group("General");
    v("spectral", spectral, "also the spectral norm and the stable rank, by iteration (slower)");
    v("threads", threads, "CPU threads; 0: all cores");
    v("log_format", log_format, "text, or json: one object on stdout");
    v("help", help, "print this, and stop");
  }
};

Index parse_tokens_number(std::string_view text, const std::string& all) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  Index n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error == std::errc::invalid_argument || text.empty() || end != text.data() + text.size())
    throw UsageError(fmt::format(
        "--tokens: \"{}\" in \"{}\" is not a whole number; write a list as in 64,128,197 or a range as in 64:4096",
        text, all));
  if (error != std::errc{} || n < 1 || n > most_tokens)
    throw UsageError(fmt::format("--tokens: N = {} must be 1 to {}", text, most_tokens));
  return n;
}

std::vector<std::string> pieces(const std::string& text, char separator) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

/// "64,128" as it stands; "64:1000" doubles: 64, 128, 256, 512, 1000.
std::vector<Index> parse_tokens(const std::string& text) {
  std::vector<Index> out;
  if (const auto ends = pieces(text, ':'); ends.size() == 2) {
    const Index first = parse_tokens_number(ends[0], text), last = parse_tokens_number(ends[1], text);
    if (first > last) throw UsageError(fmt::format("--tokens: the range {} goes down; write {}:{}", text, last, first));
    for (Index n = first; n < last; n *= 2) out.push_back(n);
    out.push_back(last);
  } else {
    for (const std::string& piece : pieces(text, ',')) out.push_back(parse_tokens_number(piece, text));
  }
  return out;
}

std::string shown(const std::optional<double>& v) { return v && std::isfinite(*v) ? fmt::format("{:.4g}", *v) : "-"; }
std::string shown(const inspect::Measured& m) {
  if (!std::isfinite(m.mean))
    return fmt::format("{}", without_sign_of_nan(m.mean));  // inf: measured, and too large for the dtype
  const char* error = m.error >= 1e6                    ? "{:.0e}"
                      : m.error >= 1                    ? "{:.0f}"
                      : m.error >= 1e-4 || m.error == 0 ? "{:.1g}"
                                                        : "{:.0e}";
  return fmt::format("{} ± {}", shown(m.mean),
                     std::isfinite(m.error) ? fmt::format(fmt::runtime(error), m.error) : "-");
}
Json json_of(const inspect::Measured& m) {
  return {{"mean", number_or_null(m.mean)}, {"error", number_or_null(m.error)}};
}

void print_fit(const char* what, const std::optional<inspect::PowerLaw>& law) {
  if (!law) return;
  fmt::print("  {} grows as {:.3g} N^{:.4f}{}\n", what, law->factor, law->exponent,
             law->error ? fmt::format(", exponent ± {:.4f}", *law->error) : std::string());
}
Json json_of(const std::optional<inspect::PowerLaw>& law) {
  if (!law) return {};
  return {{"exponent", law->exponent}, {"error", number_or_null(law->error)}, {"factor", law->factor}};
}

/// On stderr: the table's numbers are then a little small.
void tell_unconverged(Index count, Index of, const std::string& where) {
  if (count > 0)
    tell("spectral norm: {} of {} matrices had not settled ({}); theirs are lower bounds\n", count, of, where);
}

/// Behind the name of a function, by N and its divisor c: bounds that hold for every S.
const char* bounds_of_all(const Scoring& scoring) {
  if (scoring.normalize) return ": ‖A‖_F ≤ √N";
  switch (scoring.kind) {
    case Scoring::Kind::softmax: return ": √N, 2√N and √N/2 are bounds";
    case Scoring::Kind::sigmoid: return ": ‖A‖_F ≤ N/c and ‖∂A/∂S‖_F ≤ N/4c, c its divisor";
    case Scoring::Kind::relu: return ": ‖∂A/∂S‖_F ≤ N/c, c its divisor";
    case Scoring::Kind::polynomial: return "";
  }
  return "";
}

/// One attention function over all N: prints its table, returns its JSON.
Json random_table(inspect::TheoryConfig config, WorkLine& work, bool json) {
  const std::string width = fmt::format("d = {}", config.width);
  const auto line = [&](const std::vector<std::string>& f) {
    fmt::print("{:>8} {:>18} {:>8} {:>9} {:>9}  {:>18} {:>8} {:>8} {:>9} {:>9}", f[0], f[1], f[2], f[3], f[4], f[5],
               f[6], f[7], f[8], f[9]);
    if (config.spectral) fmt::print("  {:>18} {:>18}", f[10], f[11]);
    fmt::print("\n");
    std::fflush(stdout);  // a row may be minutes after the one before it
  };
  const std::string name = nn::to_string(config.scoring);
  if (!json) {
    fmt::print("\n{}{}\n", name, bounds_of_all(config.scoring));
    line({"N", "‖A‖_F", "√N", "Gaussian", width, "‖∂A/∂S‖_F", "2√N", "√N/2", "Gaussian", width, "‖A‖₂", "stable rank"});
  }
  Json points = Json::array();
  struct Column {
    std::vector<double> mean, error;
    void add(const inspect::Measured& m) { mean.push_back(m.mean), error.push_back(m.error); }
  } fro, jacobian, norm;
  std::vector<double> n;
  for (Index tokens : config.tokens) {
    config.worked = [&](double scores) { work.done(scores, fmt::format("{}, N = {}", name, tokens)); };
    const TheoryPoint p = inspect::measure_theory(config, tokens);
    work.clear();
    const double root = std::sqrt(static_cast<double>(tokens));
    const inspect::Bounds bound = inspect::bounds(config.scoring, tokens);
    const auto gaussian = inspect::expectation(config.scoring, tokens, config.rms);
    const auto exact = inspect::expectation(config.scoring, tokens, config.rms, config.width);
    n.push_back(static_cast<double>(tokens)), fro.add(p.fro), jacobian.add(p.jacobian), norm.add(p.norm);
    tell_unconverged(p.unconverged, config.samples, fmt::format("{}, N = {}", name, tokens));
    if (!json)
      line({fmt::format("{}", tokens), shown(p.fro), shown(root), shown(gaussian.fro), shown(exact.fro),
            shown(p.jacobian), shown(2 * root), shown(root / 2), shown(gaussian.jacobian), shown(exact.jacobian),
            shown(p.norm), shown(p.stable_rank)});
    points.push_back({{"tokens", tokens},
                      {"score_rms", p.score_rms},
                      {"fro", json_of(p.fro)},
                      {"jacobian", json_of(p.jacobian)},
                      {"sqrt_n", root},
                      {"bound_fro", number_or_null(bound.fro)},
                      {"bound_jacobian", number_or_null(bound.jacobian)},
                      {"sharp_jacobian", number_or_null(bound.jacobian_sharp)},
                      {"gaussian_fro", number_or_null(gaussian.fro)},
                      {"gaussian_jacobian", number_or_null(gaussian.jacobian)},
                      {"width_fro", number_or_null(exact.fro)},
                      {"width_jacobian", number_or_null(exact.jacobian)}});
    if (config.spectral)
      points.back().update(
          Json{{"norm", json_of(p.norm)}, {"stable_rank", json_of(p.stable_rank)}, {"unconverged", p.unconverged}});
  }
  const auto fit = [&](const Column& c) { return inspect::fit_power_law(n, c.mean, c.error); };
  const auto law_fro = fit(fro), law_jacobian = fit(jacobian);
  Json out = {
      {"attention", name}, {"points", points}, {"fit_fro", json_of(law_fro)}, {"fit_jacobian", json_of(law_jacobian)}};
  std::optional<inspect::PowerLaw> law_norm;
  if (config.spectral) out["fit_norm"] = json_of(law_norm = fit(norm));
  if (json) return out;
  print_fit("‖A‖_F    ", law_fro);
  print_fit("‖∂A/∂S‖_F", law_jacobian);
  print_fit("‖A‖₂     ", law_norm);
  return out;
}

int random_theory(const Flags& flags, bool json) {
  std::vector<Scoring> scorings;
  for (const std::string& text : pieces(flags.attention, ','))
    scorings.push_back(as_usage("--", [&] { return nn::parse_scoring(text); }));
  inspect::TheoryConfig config;
  config.tokens = parse_tokens(flags.tokens);
  config.width = flags.width, config.samples = flags.samples, config.rms = flags.score_rms;
  config.seed = static_cast<std::uint64_t>(flags.seed), config.spectral = flags.spectral;
  config.place = {parse_dtype(flags.dtype), parse_device(flags.device)};
  if (!json)
    fmt::print(
        "Random Q, K of width {}: scores of rms {}; {} head{} for each N, mean ± standard error; seed {}, {}.\n"
        "Gaussian: root of the mean square for independent normal scores, above the mean norm where N is small; "
        "d = {}: for products of two normal vectors of that width.\n",
        flags.width, flags.score_rms, flags.samples, flags.samples == 1 ? "" : "s", flags.seed, flags.dtype,
        flags.width);
  double scores = 0;
  for (const Index tokens : config.tokens)
    scores += static_cast<double>(scorings.size()) * inspect::theory_work(config, tokens);
  WorkLine work(scores);
  Json all = Json::array();
  for (const Scoring& scoring : scorings) {
    config.scoring = scoring;
    all.push_back(random_table(config, work, json));
  }
  if (json)
    print_result({{"width", flags.width},
                  {"samples", flags.samples},
                  {"score_rms", flags.score_rms},
                  {"seed", flags.seed},
                  {"dtype", flags.dtype},
                  {"attention", all}},
                 true);
  return ok;
}

/// One layer's spectral norms, averaged over the batch: per head norm and stable rank.
std::vector<std::pair<double, double>> layer_spectral(const Tensor& packed, const models::ViTConfig& shape) {
  AttentionOptions options;
  options.scoring = shape.attention, options.clamp_fro = shape.clamp_fro;
  const Tensor wide = packed.dtype() == DType::bf16 ? cast(packed, DType::f32) : packed;
  const auto part = [&](Index i) { return transpose(select(wide, 2, i), 1, 2); };
  const inspect::Spectral s = inspect::spectral(part(0), part(1), options);
  Index unconverged = 0;
  for (std::size_t i = 0; i < s.norm.size(); ++i) unconverged += !s.converged[i] && std::isfinite(s.norm[i]);
  tell_unconverged(unconverged, s.batch * s.heads, "one layer of the run");
  std::vector<std::pair<double, double>> out(static_cast<std::size_t>(s.heads));
  for (Index b = 0; b < s.batch; ++b)
    for (Index h = 0; h < s.heads; ++h) {
      const auto from = static_cast<std::size_t>(b * s.heads + h), to = static_cast<std::size_t>(h);
      out[to].first += s.norm[from] / static_cast<double>(s.batch);
      out[to].second += s.stable_rank[from] / static_cast<double>(s.batch);
    }
  return out;
}

/// What a run's heads measure over test images.
struct RunMeasures {
  std::vector<std::pair<std::string, inspect::HeadStats>> layers;
  std::map<std::string, std::vector<double>> spectral;  // by layer: norm and stable rank of each head
};

RunMeasures measure_run(const RunModel& loaded, Index images, bool spectral) {
  models::ViT& model = *loaded.model;
  const models::ViTConfig& shape = model.config();
  auto loader_settings = train::loader_config(loaded.config, shape, false);
  loader_settings.batch = std::min<Index>(images, 64);

  const NoGrad off;
  inspect::Probe probe(model);
  probe.attention("blocks.*.attn.stats");
  if (spectral)
    probe.value("blocks.*.attn.packed", [&](const Tensor& packed) {
      std::vector<double> flat;
      for (const auto& [norm, rank] : layer_spectral(packed, shape)) flat.push_back(norm), flat.push_back(rank);
      return from_values(flat, {static_cast<Index>(flat.size() / 2), 2}, {DType::f64});
    });
  datasets::Loader loader(loaded.data.test, loader_settings);
  RunMeasures out;
  for (Index done = 0; done < images;) {
    const Tensor batch = loader.next().images;
    const Index count = std::min(batch.size(0), images - done);
    (void)model(slice(batch, 0, 0, count));
    for (const auto& [place, calls] : probe.take_values()) {
      const std::vector<double> means = calls.at(0).values();
      auto& sums = out.spectral.try_emplace(place.substr(0, place.rfind('.')), means.size(), 0.0).first->second;
      for (std::size_t i = 0; i < means.size(); ++i)
        sums[i] += means[i] * static_cast<double>(count) / static_cast<double>(images);
    }
    done += count;
  }
  out.layers = probe.take_attention();
  return out;
}

/// Of a function that is not softmax.
std::string own_bounds(const inspect::Bounds& bound) {
  std::string text;
  if (bound.fro) text = fmt::format("‖A‖_F ≤ {}", shown(bound.fro));
  if (bound.jacobian) text += fmt::format("{}‖∂A/∂S‖_F ≤ {}", text.empty() ? "" : " and ", shown(bound.jacobian_sharp));
  return text.empty() ? "this function has no such bounds." : "of this function " + text + ".";
}

int run_theory(const std::filesystem::path& run, const Flags& flags, bool json) {
  const RunModel loaded =
      load_run_model(run, flags.threads, flags.data_dir, {.initial = flags.initial, .matrices = true});
  const models::ViTConfig& shape = loaded.model->config();
  const Index images = std::min(flags.images, loaded.data.test.count);
  const RunMeasures measured = measure_run(loaded, images, flags.spectral);

  const Index tokens = shape.tokens();
  const double root = std::sqrt(static_cast<double>(tokens));
  const bool softmax = shape.attention.kind == Scoring::Kind::softmax;
  const inspect::Bounds bound = inspect::bounds(shape.attention, tokens);
  Json rows = Json::array();
  if (!json) {
    fmt::print("{} at step {}{}, {}: mean norms over {} test images, N = {}\n", run.string(), loaded.step,
               loaded.told(), nn::to_string(shape.attention), images, tokens);
    fmt::print(
        "{} ‖A‖_F ≤ √N = {} and ‖∂A/∂S‖_F ≤ √N/2 = {} (in the paper 2√N = {}){}\n"
        "Gaussian: root of the mean square for independent normal scores of the head's rms.\n\n",
        softmax ? "Bounds:" : "For softmax", shown(root), shown(root / 2), shown(2 * root),
        softmax ? "." : "; " + own_bounds(bound));
    if (shape.clamp_fro > 0)
      fmt::print(
          "This run clamps ‖A‖_F to {}; ‖∂A/∂S‖_F is that of the attention function before the clamp, and the Gaussian "
          "columns are without it.\n",
          shown(shape.clamp_fro));
    fmt::print("{:<22} {:>4} {:>10}  {:>10} {:>7} {:>9}  {:>10} {:>8} {:>9}", "layer", "head", "score rms", "‖A‖_F",
               "of √N", "Gaussian", "‖∂A/∂S‖_F", "of √N/2", "Gaussian");
    fmt::print("{}\n", flags.spectral ? fmt::format("  {:>9} {:>11}", "‖A‖₂", "stable rank") : "");
  }
  for (const auto& [place, s] : measured.layers) {
    const std::string layer = place.substr(0, place.rfind('.'));
    for (std::size_t h = 0; h < s.fro.size(); ++h) {
      inspect::Expectation gaussian;  // of a run that diverged there is none
      if (std::isfinite(s.score_rms[h])) gaussian = inspect::expectation(shape.attention, tokens, s.score_rms[h]);
      Json row = {{"layer", layer},
                  {"head", h},
                  {"score_rms", number_or_null(s.score_rms[h])},
                  {"fro", number_or_null(s.fro[h])},
                  {"jacobian", number_or_null(s.jacobian[h])},
                  {"gaussian_fro", number_or_null(gaussian.fro)},
                  {"gaussian_jacobian", number_or_null(gaussian.jacobian)}};
      std::string more;
      if (flags.spectral) {
        const std::vector<double>& pair = measured.spectral.at(layer);
        row["norm"] = number_or_null(pair[2 * h]), row["stable_rank"] = number_or_null(pair[2 * h + 1]);
        more = fmt::format("  {:>9} {:>11}", shown(pair[2 * h]), shown(pair[2 * h + 1]));
      }
      if (!json)
        fmt::print("{:<22} {:>4} {:>10}  {:>10} {:>7} {:>9}  {:>10} {:>8} {:>9}{}\n", layer, h, shown(s.score_rms[h]),
                   shown(s.fro[h]), shown(s.fro[h] / root), shown(gaussian.fro), shown(s.jacobian[h]),
                   shown(s.jacobian[h] / (root / 2)), shown(gaussian.jacobian), more);
      rows.push_back(row);
    }
  }
  if (json)
    print_result({{"run", run.string()},
                  {"step", loaded.step},
                  {"weights", loaded.weights},
                  {"attention", nn::to_string(shape.attention)},
                  {"tokens", tokens},
                  {"images", images},
                  {"sqrt_n", root},
                  {"bound_fro", number_or_null(bound.fro)},
                  {"bound_jacobian", number_or_null(bound.jacobian)},
                  {"sharp_jacobian", number_or_null(bound.jacobian_sharp)},
                  {"heads", rows}},
                 true);
  return ok;
}

}  // namespace

int theory_verb(const Args& args) {
  Flags flags;
  train::Options options;
  flags.fields(options);
  const std::optional<Args> found = read_words(options, args, usage);
  if (!found) return ok;
  const Args& words = *found;
  options.apply();
  if (words.size() > 1)
    throw UsageError(
        fmt::format("theory: unexpected \"{}\"; name one run folder, or none for random Q and K", words[1]));
  for (const char* name : {"attention", "tokens", "width", "samples", "score_rms", "seed", "dtype", "device"})
    if (!words.empty() && options.given(name))
      throw UsageError(fmt::format("theory: --{} is for random Q and K; the run {} brings its own",
                                   std::string_view(name) == "score_rms" ? "score-rms" : name, words[0]));
  for (const char* name : {"images", "initial", "data_dir"})
    if (words.empty() && options.given(name))
      throw UsageError(fmt::format("theory: --{} is for a run; name its folder, as in norma theory runs/a",
                                   std::string_view(name) == "data_dir" ? "data-dir" : name));
  for (auto [name, value] : {std::pair{"width", flags.width}, {"samples", flags.samples}, {"images", flags.images}})
    if (value < 1) throw UsageError(fmt::format("--{}: {} must be more than 0", name, value));
  if (!(flags.score_rms > 0)) throw UsageError(fmt::format("--score-rms: {} must be more than 0", flags.score_rms));
  if (flags.dtype != "f32" && flags.dtype != "f64")
    throw UsageError(fmt::format("--dtype: \"{}\" is not possible; there are f32, f64", flags.dtype));
  const bool json = wants_json(flags.log_format);
  if (flags.seed < 0) throw UsageError(fmt::format("--seed: {} must be 0 or more", flags.seed));
  check_threads(flags.threads);
  if (!words.empty()) return run_theory(words[0], flags, json);

  train::TrainConfig config;
  config.threads = flags.threads, config.device = flags.device;
  prepare(config);
  return random_theory(flags, json);
}

}  // namespace norma::apps
