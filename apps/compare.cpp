// norma compare: runs side by side, as a table on stdout and a page that needs no network.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "apps/page_runs.h"
#include "apps/verbs.h"
#include "core/atomic_file.h"
#include "core/table.h"
#include "core/terminal.h"
#include "train/run_groups.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma compare RUN... [flags]

A table of one or more runs, and a page with their curves: accuracy, loss, and the norms of every layer's attention matrix over
training. The page is one file and needs no network. Blocks and heads count from 0, as in blocks.0.attn.

Runs of one setting, which differ in their seed alone, are also told together: mean ± sample standard deviation over seeds. Runs are of
one setting where their images are the same, by the hashes in status.json (earlier versions wrote none), and their config.json but for
  {}
Each other setting is compared with the first that has two or more runs in its mean, seed by seed, over the seeds that both have: the mean
difference, and its 95 % confidence interval (Student's t). Where 0 lies within it the seeds show no difference. Two seeds are needed, and
say next to nothing.
Runs that diverged, were stopped or have not ended are named, and are in no mean; of runs with the same seed the first that finished
counts.
)";

using train::Json;

double number(const Json& row, const char* key) {
  return row.is_object() && row.contains(key) && row[key].is_number() ? row[key].get<double>() : NAN;
}

std::string shown(double v, const char* format) {
  return std::isfinite(v) ? fmt::format(fmt::runtime(format), v) : "-";
}
/// Zeros at the end stay, so that all numbers of a column show as much; behind three digits fmt would write one more.
std::string three_digits(double v) {
  std::string text = shown(v, "{:#.3g}");
  if (const std::size_t point = text.find('.'); point != std::string::npos && point >= 3) text.resize(point);
  return text;
}

/// How wide tables may be. Where there is no terminal they are for a file, or a page like README.md.
std::size_t width_of_tables() { return terminal_columns(STDOUT_FILENO, 120); }
/// A line of text, on a terminal in lines that it holds.
void print_line(const std::string& text) {
  for (const std::string& line : wrapped(text, std::max<std::size_t>(40, terminal_columns(STDOUT_FILENO, 10'000)), 2))
    fmt::print("{}\n", line);
}

const Json* last_with(const std::vector<Json>& rows, const char* key) {
  for (auto it = rows.rbegin(); it != rows.rend(); ++it)
    if (it->contains(key)) return &*it;
  return nullptr;
}

/// Mean over heads of a statistic of one layer, largest over the run's logged steps and at the last one.
struct Span {
  double first = NAN, largest = NAN, last = NAN;
  Index largest_step = -1, largest_head = -1;  // where the mean is largest, and which head is largest there
};
Span over_training(const std::vector<Json>& rows, std::size_t layer, const char* field) {
  Span s;
  for (const Json& row : rows) {
    if (!row.contains("attention") || row["attention"].size() <= layer || !row["attention"][layer].contains(field))
      continue;
    std::vector<double> heads;
    for (const Json& v : row["attention"][layer][field]) heads.push_back(v.is_number() ? v.get<double>() : NAN);
    const double mean = std::accumulate(heads.begin(), heads.end(), 0.0) / static_cast<double>(heads.size());
    if (std::isnan(s.first)) s.first = mean;
    if (!(mean <= s.largest) && !std::isnan(mean)) {  // what is no number hides nothing that was seen before
      s.largest = mean, s.largest_step = row["step"];
      s.largest_head = std::max_element(heads.begin(), heads.end()) - heads.begin();
    }
    s.last = mean;
  }
  return s;
}

/// finished, diverged, interrupted or not ended.
std::string status_of(const inspect::PageRun& run) {
  return !run.ending.empty() ? run.ending : run.summary.is_object() ? "finished" : "not ended";
}
/// That it trained, as far as its folder knows.
double seconds_of(const inspect::PageRun& run) {
  return run.summary.is_object() ? number(run.summary, "seconds") : run.seconds > 0 ? run.seconds : NAN;
}

Json json_of(const train::Spread& s) { return {{"mean", s.mean}, {"deviation", s.deviation}}; }

/// Of the runs' results, as compare_verb has them, what the counted ones of a group say together.
Json group_json(const train::RunGroup& group, const Json& runs, std::span<const inspect::PageRun> page) {
  std::vector<double> accuracy, loss, fro;
  std::vector<std::vector<double>> blocks;
  for (const std::size_t i : group.counted) {
    accuracy.push_back(number(runs[i], "test_accuracy"));
    loss.push_back(number(runs[i], "test_loss"));
    std::vector<double> last;
    for (const Json& span : runs[i]["fro"]) last.push_back(number(span, "last"));
    if (last.empty()) continue;
    fro.push_back(train::spread_of(last).mean);
    blocks.resize(std::max(blocks.size(), last.size()));
    for (std::size_t l = 0; l < last.size(); ++l) blocks[l].push_back(last[l]);
  }
  Json names = Json::array(), left_out = Json::array(), by_block = Json::array();
  for (const std::size_t i : group.runs) {
    names.push_back(runs[i]["run"]);
    if (!page[i].left_out.empty()) left_out.push_back({{"run", runs[i]["run"]}, {"why", page[i].left_out}});
  }
  for (const auto& last : blocks) by_block.push_back(json_of(train::spread_of(last)));
  return {{"name", group.name},
          {"differs", group.differs},
          {"runs", names},
          {"seeds", group.counted.size()},
          {"left_out", left_out},
          {"test_accuracy", json_of(train::spread_of(accuracy))},
          {"test_loss", json_of(train::spread_of(loss))},
          {"fro", json_of(train::spread_of(fro))},
          {"fro_by_block", by_block}};
}

/// The setting less the first one, by seed. Its numbers are null where they have not two seeds in common.
Json paired_json(const train::RunGroup& first, const train::RunGroup& group, const Json& runs,
                 std::span<const inspect::PageRun> page) {
  const auto of = [&](const char* key) {
    std::vector<double> values;
    for (const Json& run : runs) values.push_back(number(run, key));
    return train::paired(first, group, page, values);
  };
  const train::Paired accuracy = of("test_accuracy"), loss = of("test_loss");
  const auto told = [](const train::Paired& p) {
    return Json{{"mean", p.difference.mean},
                {"deviation", p.difference.deviation},
                {"standard_error", p.error},
                {"ci95_low", p.low},
                {"ci95_high", p.high}};
  };
  return {
      {"less", first.name}, {"seeds", accuracy.seeds}, {"test_accuracy", told(accuracy)}, {"test_loss", told(loss)}};
}

std::string with_spread(const Json& spread, const char* format, double factor = 1, const char* unit = "") {
  const double mean = number(spread, "mean") * factor, deviation = number(spread, "deviation") * factor;
  if (!std::isfinite(mean)) return "-";
  return shown(mean, format) + (std::isfinite(deviation) ? " ± " + shown(deviation, format) : "") + unit;
}
/// Both with as many decimals as two digits of the deviation take.
std::string norm_with_spread(const Json& spread) {
  const double mean = number(spread, "mean"), deviation = number(spread, "deviation");
  if (!(std::isfinite(deviation) && std::abs(mean) < 1e6)) return three_digits(mean);
  if (deviation <= 1e-12 * std::abs(mean))
    return three_digits(mean) + " ± " + three_digits(0);  // equal values, but for the mean's rounding
  const int decimals = std::clamp(1 - static_cast<int>(std::floor(std::log10(deviation))), 0, 9);
  return fmt::format("{:.{}f} ± {:.{}f}", mean, decimals, deviation, decimals);
}

/// The first column holds names, the others numbers.
void print_by_name(std::vector<std::vector<std::string>> rows) {
  Table table{{{.words = true}}, std::move(rows)};
  table.columns.resize(table.rows[0].size());
  fmt::print("{}", shown(table, width_of_tables()));
}

/// `differences`: beside the deviations of the settings, what is left of them where seeds are compared one by one.
void print_groups(const Json& groups, const train::ShortNames& brief, const std::vector<std::string>& differences) {
  fmt::print("\n");
  print_line("by setting, runs that differ in their seed alone: mean ± sample standard deviation over seeds");
  if (!brief.shared.empty()) print_line("where a setting names no other: " + brief.shared);
  std::vector<std::vector<std::string>> rows = {
      {"setting", "in the mean", "left out", "test acc.", "test loss", "last ||A||_F"}};
  std::vector<std::vector<std::string>> norms = {{"setting"}};
  std::size_t blocks = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Json& g = groups[i];
    rows.push_back({brief.names[i], g["seeds"].dump(), fmt::format("{}", g["left_out"].size()),
                    with_spread(g["test_accuracy"], "{:.2f}", 100, " %"), with_spread(g["test_loss"], "{:.4f}"),
                    norm_with_spread(g["fro"])});
    norms.push_back({brief.names[i]});
    for (const Json& block : g["fro_by_block"]) norms.back().push_back(norm_with_spread(block));
    blocks = std::max(blocks, g["fro_by_block"].size());
  }
  for (std::size_t i = 1; i < norms.size(); ++i) norms[i].resize(blocks + 1, "-");
  print_by_name(std::move(rows));
  for (std::size_t i = 0; i < groups.size(); ++i)
    for (const Json& r : groups[i]["left_out"])
      print_line(fmt::format("not in the mean of {}: {} ({})", brief.names[i], r["run"].get<std::string>(),
                             r["why"].get<std::string>()));
  if (!differences.empty()) fmt::print("\n");
  for (const std::string& line : differences) print_line(line);
  if (!blocks) return;
  for (std::size_t l = 0; l < blocks; ++l) norms[0].push_back(fmt::format("block {}", l));
  fmt::print("\n");
  print_line("last ||A||_F by setting and block (above: the mean over blocks)");
  print_by_name(std::move(norms));
}

/// Whether a step's statistics have the field in one of the layers.
bool logged(const std::vector<Json>& rows, const char* field) {
  for (const Json& row : rows)
    if (row.contains("attention"))
      for (const Json& layer : row["attention"])
        if (layer.contains(field)) return true;
  return false;
}

/// What is told of one run, and how its norms went over training.
Json run_json(const inspect::PageRun& run, const std::string& path) {
  const Json* test = run.summary.is_object() ? &run.summary : last_with(run.rows, "test_accuracy");
  const Json* step = last_with(run.rows, "attention");
  Json fro = Json::array();
  for (std::size_t l = 0; step && l < (*step)["attention"].size(); ++l) {
    const Span s = over_training(run.rows, l, "fro");
    fro.push_back({{"first", s.first}, {"largest", s.largest}, {"last", s.last}});
    if (s.largest_step >= 0)
      fro.back().update(Json{{"largest_step", s.largest_step}, {"largest_head", s.largest_head}});
  }
  const bool fro_sampled = logged(run.rows, "fro_error");
  return {{"run", path},
          {"attention", run.config.value("attention", "?")},
          {"test_accuracy", test ? number(*test, "test_accuracy") : NAN},
          {"test_loss", test ? number(*test, "test_loss") : NAN},
          {"seconds", seconds_of(run)},
          {"ending", run.ending},
          {"status", status_of(run)},
          {"sampled", logged(run.rows, "sampled") || fro_sampled},  // earlier versions logged the error alone
          {"fro_sampled", fro_sampled},
          {"tokens", run.tokens},
          {"fro", fro}};
}

/// Where a run's norm is largest, over blocks and time: "step 340, block 2, head 1".
std::string largest_at(const Json& fro) {
  std::size_t block = fro.size();
  for (std::size_t l = 0; l < fro.size(); ++l)
    if (fro[l].contains("largest_step") &&
        (block == fro.size() || number(fro[l], "largest") > number(fro[block], "largest")))
      block = l;
  if (block == fro.size()) return "-";
  return fmt::format("step {}, block {}, head {}", fro[block]["largest_step"].dump(), block,
                     fro[block]["largest_head"].dump());
}

/// What softmax's norm is at most with as many tokens as the runs have (Theorem 4.1): "; softmax: at most √N = 7".
std::string bound_of_softmax(const Json& runs) {
  std::set<Index> sizes;
  for (const Json& r : runs)
    if (const Index n = r["tokens"]; n > 0) sizes.insert(n);
  std::string out;
  for (const Index n : sizes)
    out +=
        fmt::format("{}{:.4g}", out.empty() ? "; softmax: at most √N = " : " or ", std::sqrt(static_cast<double>(n)));
  return out;
}

/// The norms of the runs by block: a line a run where that fits, else a column a run.
void print_norms(const Json& runs, const std::vector<Table::Column>& names) {
  fmt::print("\n");
  print_line("||A||_F by block (mean over heads and batch): first step → largest → last logged step" +
             bound_of_softmax(runs));
  std::size_t blocks = 0;
  for (const Json& r : runs) blocks = std::max(blocks, r["fro"].size());
  Table table{names, {{"run", "attention"}}};
  table.columns.resize(names.size() + blocks, {.least = 21, .gap = 2});
  for (std::size_t l = 0; l < blocks; ++l) table.rows[0].push_back(fmt::format("block {}", l));
  for (const Json& r : runs) {
    auto& row = table.rows.emplace_back(std::vector<std::string>{r["run"], r["attention"]});
    for (const Json& s : r["fro"])
      row.push_back(fmt::format("{} → {} → {}", three_digits(number(s, "first")), three_digits(number(s, "largest")),
                                three_digits(number(s, "last"))));
  }
  Table with_largest = table;
  with_largest.columns.push_back({.words = true});
  with_largest.rows[0].push_back("largest at");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto& row = with_largest.rows[i + 1];
    row.resize(names.size() + blocks);
    row.push_back(largest_at(runs[i]["fro"]));
  }
  const std::size_t width = width_of_tables();
  const bool told = blocks > 0 && (fits(with_largest, width) || !fits_in_rows(table, width));
  fmt::print("{}", shown(told ? with_largest : table, width));
}

/// The results of the runs, then their norms by block.
void print_runs(const Json& runs) {
  const std::vector<Table::Column> names = {{.least = 20, .words = true}, {.least = 18, .words = true, .gap = 1}};
  Table table{names, {{"run", "attention", "test acc.", "test loss", "seconds"}}};
  for (const std::size_t least : {9, 10, 9}) table.columns.push_back({.least = least, .gap = 1});
  for (const Json& r : runs)
    table.rows.push_back({r["run"], r["attention"], shown(number(r, "test_accuracy") * 100, "{:.2f} %"),
                          shown(number(r, "test_loss"), "{:.4f}"), shown(number(r, "seconds"), "{:.0f}")});
  // How runs stand has a column of its own where one of them is not as it should be.
  if (std::any_of(runs.begin(), runs.end(), [](const Json& r) { return r["status"] != "finished"; })) {
    table.columns.push_back({.words = true});
    table.rows[0].push_back("status");
    for (std::size_t i = 0; i < runs.size(); ++i) table.rows[i + 1].push_back(runs[i]["status"]);
  }
  fmt::print("{}", shown(table, width_of_tables()));
  print_norms(runs, names);
  bool first = true;  // the page has the same: remarksOn() in inspect/page/who.js
  for (const Json& r : runs) {
    if (!r["sampled"]) continue;
    if (std::exchange(first, false)) fmt::print("\n");
    print_line(fmt::format(
        "{}: attention in linear form: all but {}the sums of rows are estimates from 48 rows a head, and extremes "
        "bounds. --attention-form quadratic is exact.",
        r["run"].get<std::string>(), r["fro_sampled"] ? "" : "||A||_F and "));
  }
}

}  // namespace

int compare_verb(const Args& args) {
  std::string html = "compare.html";
  train::Options options;
  options("html", html, "where to write the page");
  const auto given = read_given(options, args, fmt::format(usage, fmt::join(train::fields_of_no_setting(), ", ")));
  if (!given) return ok;
  const auto& [runs, json] = *given;
  if (runs.empty()) throw UsageError("compare: name the run folders, as in norma compare runs/a runs/b");
  if (html.empty()) throw UsageError("--html: is empty; name a file, or leave it out for compare.html");

  std::vector<inspect::PageRun> page = read_page_runs(runs);
  Json all = Json::array(), groups = Json::array();
  for (std::size_t i = 0; i < runs.size(); ++i) all.push_back(run_json(page[i], runs[i]));
  const std::vector<train::RunGroup> settings = train::group_runs(page);
  const train::RunGroup& reference = settings[train::reference_of(settings)];
  const bool several = page.size() > settings.size();  // runs of one setting
  for (const train::RunGroup& group : settings) {
    groups.push_back(group_json(group, all, page));
    if (several && &group != &reference) groups.back()["by_seed"] = paired_json(reference, group, all, page);
  }
  if (json) {
    print_result({{"runs", all}, {"groups", groups}, {"html", html}}, true);
  } else {
    print_runs(all);
    const train::ShortNames brief = train::short_names(settings);
    if (several) print_groups(groups, brief, train::differences_by_seed(settings, page, brief.names));
  }
  const std::string title = fmt::format("Norma: {} run{} compared", runs.size(), runs.size() == 1 ? "" : "s");
  // Last: where it cannot be written the table is there.
  write_atomically(html, inspect::make_page(title, page, train::differences_by_seed(settings, page)));
  if (!json) fmt::print("\npage: {}\n", html);
  return ok;
}

}  // namespace norma::apps
