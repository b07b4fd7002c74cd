#include "train/run_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>

#include "core/terminal.h"
#include "nn/scoring.h"
#include "train/config.h"

namespace norma::train {
namespace {

constexpr const char* of_no_setting[] = {
    "seed",      "out",    "data_dir",     "preset",         "threads",         "device",
    "cpu",       "gemm",   "graph",        "attention_form", "anomaly",         "checkpoint_every",
    "log_every", "record", "record_every", "record_images",  "record_limit_mib"};

constexpr const char* of_images[] = {"data_hash", "test_hash"};

/// Sorted by name, so that the order in a file means nothing.
nlohmann::json setting_of(const inspect::PageRun& run) {
  nlohmann::json setting = to_json(TrainConfig{});
  for (const auto& [field, value] : run.config.items()) setting[field] = value;
  for (const char* field : of_no_setting) setting.erase(field);
  try {
    setting["attention"] = nn::to_string(nn::parse_scoring(setting["attention"].get<std::string>()));
  } catch (const Error&) {  // of another version: a text like any other
  }
  if (!run.data_hash.empty()) setting["data_hash"] = run.data_hash;
  if (!run.test_hash.empty()) setting["test_hash"] = run.test_hash;
  return setting;
}

bool same_images(const nlohmann::json& a, const nlohmann::json& b) {
  return std::none_of(std::begin(of_images), std::end(of_images), [&](const char* field) {
    return a.contains(field) && b.contains(field) && a[field] != b[field];
  });
}

void forget_images(nlohmann::json& setting) {
  for (const char* field : of_images) setting.erase(field);
}

bool same_setting(nlohmann::json a, nlohmann::json b) {
  if (!same_images(a, b)) return false;
  forget_images(a), forget_images(b);
  return a == b;
}

/// Leaves of the images what tells the settings apart: nothing where all are the same, their folders, which say more
/// than hashes, where each has images of its own.
void tell_images(std::span<nlohmann::json> settings, std::span<const nlohmann::json> folders) {
  bool differ = false, by_folder = true;
  for (std::size_t i = 0; i < settings.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const bool same = same_images(settings[i], settings[j]);
      differ |= !same;
      by_folder &= same == (folders[i] == folders[j]);
    }
  if (differ && !by_folder) return;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    forget_images(settings[i]);
    if (differ) settings[i]["data_dir"] = folders[i];
  }
}

std::string shown(const nlohmann::json& value) {
  if (value.is_null()) return "-";
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  if (!value.is_string()) return value.dump();
  const auto text = value.get<std::string>();
  return text.empty() ? "-" : text;
}

/// An attention function's text as a run has it, where that is shorter than the usual one and as easily typed:
/// x^3/sqrt(17), not 0.24253562503633297x^3.
nlohmann::json formula_of(const Json& config, const nlohmann::json& usual) {
  const std::string text = config.value("attention", ""), other = usual.is_string() ? usual.get<std::string>() : "";
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return !text.empty() && ascii && text.size() < other.size() ? nlohmann::json(text) : usual;
}

bool finite(const Json& summary, const char* key) {
  return summary[key].is_number() && std::isfinite(summary[key].get<double>());
}

std::string why_left_out(const inspect::PageRun& run) {
  if (run.ending == "diverged" || run.ending == "interrupted") return run.ending;
  if (!run.summary.is_object()) return "not ended";
  return finite(run.summary, "test_accuracy") && finite(run.summary, "test_loss") ? "" : "not finite";
}

void name_groups(std::span<RunGroup> groups, std::span<const nlohmann::json> settings,
                 std::span<const nlohmann::json> formulas) {
  std::vector<std::string> fields = {"attention"};
  for (const nlohmann::json& setting : settings)
    for (const auto& [field, value] : setting.items())
      if (std::find(fields.begin(), fields.end(), field) == fields.end() &&
          std::any_of(settings.begin(), settings.end(), [&field = field, &value = value](const nlohmann::json& other) {
            return !other.contains(field) || other[field] != value;
          }))
        fields.push_back(field);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i].differs = Json::object();
    for (const std::string& field : fields) {
      const nlohmann::json value = field == "attention"          ? formulas[i]
                                   : settings[i].contains(field) ? settings[i][field]
                                                                 : nlohmann::json();
      const bool hash = std::find(std::begin(of_images), std::end(of_images), field) != std::end(of_images);
      groups[i].differs[field] = value;
      const std::string text = shown(value).substr(0, hash ? 8 : std::string::npos);
      groups[i].parts.push_back(field == "attention" ? text : field + " " + text);
    }
    groups[i].name = fmt::format("{}", fmt::join(groups[i].parts, ", "));
  }
}

}  // namespace

std::span<const char* const> fields_of_no_setting() { return of_no_setting; }

Index seed_of(const inspect::PageRun& run) {
  const auto given = run.config.find("seed");
  return given != run.config.end() && given->is_number_integer() ? given->get<Index>() : TrainConfig{}.seed;
}

std::vector<RunGroup> group_runs(std::span<inspect::PageRun> runs) {
  std::vector<nlohmann::json> settings, formulas;  // of the groups, and their attention functions as they are shown
  std::vector<nlohmann::json> folders;             // of the images, as the first run of each has it
  std::vector<RunGroup> groups;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    nlohmann::json setting = setting_of(runs[i]);
    const auto found = std::find_if(settings.begin(), settings.end(),
                                    [&](const nlohmann::json& other) { return same_setting(other, setting); });
    const auto at = static_cast<std::size_t>(found - settings.begin());
    if (at == settings.size()) {
      folders.push_back(runs[i].config.value("data_dir", Json("")));
      formulas.push_back(formula_of(runs[i].config, setting["attention"]));
      settings.push_back(std::move(setting)), groups.emplace_back();
    } else {
      found->update(setting);  // what it knows of the images
    }
    groups[at].runs.push_back(i);
  }
  tell_images(settings, folders);
  name_groups(groups, settings, formulas);
  for (RunGroup& group : groups) {
    std::map<Index, std::string> seeds;  // and the run that has each
    for (const std::size_t i : group.runs) {
      inspect::PageRun& run = runs[i];
      run.setting = group.name;
      run.left_out = why_left_out(run);
      if (!run.left_out.empty()) continue;
      const Index seed = seed_of(run);
      if (const auto [before, is_new] = seeds.emplace(seed, run.name); is_new)
        group.counted.push_back(i);
      else
        run.left_out = fmt::format("seed {} again, as {}", seed, before->second);
    }
  }
  return groups;
}

std::size_t reference_of(std::span<const RunGroup> groups) {
  const auto found =
      std::find_if(groups.begin(), groups.end(), [](const RunGroup& group) { return group.counted.size() > 1; });
  return found == groups.end() ? 0 : static_cast<std::size_t>(found - groups.begin());
}

// The page has its own: shortNames() in inspect/page/groups.js.
ShortNames short_names(std::span<const RunGroup> groups) {
  constexpr std::size_t longest = 40;  // two of them stand in one sentence
  const bool whole =
      std::all_of(groups.begin(), groups.end(), [](const RunGroup& g) { return columns(g.name) <= longest; });
  std::vector<std::string> shared;
  for (std::size_t part = 1; !whole && part < groups[0].parts.size(); ++part)
    for (const RunGroup& g : groups) {
      const auto same = std::count_if(groups.begin(), groups.end(),
                                      [&](const RunGroup& other) { return other.parts[part] == g.parts[part]; });
      if (2 * static_cast<std::size_t>(same) <= groups.size()) continue;
      shared.push_back(g.parts[part]);
      break;
    }
  ShortNames brief{{}, fmt::format("{}", fmt::join(shared, ", "))};
  for (const RunGroup& g : groups) {
    std::vector<std::string> left = {g.parts[0]};
    std::copy_if(g.parts.begin() + 1, g.parts.end(), std::back_inserter(left), [&](const std::string& part) {
      return std::find(shared.begin(), shared.end(), part) == shared.end();
    });
    brief.names.push_back(fmt::format("{}", fmt::join(left, ", ")));
  }
  return brief;
}

Spread spread_of(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  const double mean = values.empty() ? NAN : std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() < 2 ? NAN : std::sqrt(squares / (n - 1))};
}

double factor_95(std::size_t degrees) {
  static constexpr double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
                                     2.2010,  2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
                                     2.0796,  2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423};
  if (degrees <= std::size(table)) return table[degrees - 1];
  const auto n = static_cast<double>(degrees);
  return 1.95996 + 2.3723 / n + 2.8225 / (n * n);  // the first terms in 1/n, right to 0.0001 here
}

Paired paired(const RunGroup& first, const RunGroup& second, std::span<const inspect::PageRun> runs,
              std::span<const double> values) {
  std::vector<double> differences;
  double rounding = 0;  // more than that of a difference
  for (const std::size_t i : second.counted)
    for (const std::size_t j : first.counted)
      if (seed_of(runs[i]) == seed_of(runs[j])) {
        differences.push_back(values[i] - values[j]);
        rounding = std::max({rounding, 1e-12 * std::abs(values[i]), 1e-12 * std::abs(values[j])});
      }
  const std::size_t n = differences.size();
  if (n < 2) return {n, {NAN, NAN}, NAN, NAN, NAN};
  Spread spread = spread_of(differences);
  if (spread.deviation <= rounding) {
    spread.deviation = 0;
    if (std::abs(spread.mean) > rounding) return {n, spread, 0, NAN, NAN};
    spread.mean = 0;
  }
  const double error = spread.deviation / std::sqrt(static_cast<double>(n)), reach = factor_95(n - 1) * error;
  return {n, spread, error, spread.mean - reach, spread.mean + reach};
}

std::vector<std::string> differences_by_seed(std::span<const RunGroup> groups, std::span<const inspect::PageRun> runs,
                                             const std::vector<std::string>& names) {
  std::vector<std::string> lines;
  if (groups.size() == runs.size()) return lines;
  std::vector<double> accuracy;
  for (const inspect::PageRun& run : runs)
    accuracy.push_back(run.left_out.empty() ? run.summary["test_accuracy"].get<double>() : NAN);
  const std::size_t first = reference_of(groups);
  const auto name = [&](std::size_t i) { return names.empty() ? groups[i].name : names[i]; };
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i == first) continue;
    const Paired p = paired(groups[first], groups[i], runs, accuracy);
    std::string& line = lines.emplace_back(fmt::format("{} minus {}", name(i), name(first)));
    if (p.seeds < 2) {
      line += fmt::format(": {} seed{} in common, two are needed", p.seeds, p.seeds == 1 ? "" : "s");
      continue;
    }
    line += fmt::format(", by seed ({}): {:.2f} points, ", p.seeds, 100 * p.difference.mean);
    line += std::isfinite(p.low) ? fmt::format("95 % interval {:.2f} to {:.2f}: {} difference at 95 %", 100 * p.low,
                                               100 * p.high, p.low <= 0 && p.high >= 0 ? "no" : "a")
                                 : fmt::format("all {} differences are equal: no interval", p.seeds);
    if (p.seeds == 2) line += " (two seeds say next to nothing)";
  }
  return lines;
}

}  // namespace norma::train
