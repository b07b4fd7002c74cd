// norma compare: runs side by side, as a table on stdout and a page that needs no network.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/verbs.h"
#include "inspect/page.h"
#include "train/record_folder.h"
#include "train/run_folder.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma compare RUN... [flags]

A table of one or more runs, and a page with their curves: accuracy, loss, and the norms of every layer's attention matrix over
training. The page is one file and needs no network.
)";

using train::Json;

double number(const Json& row, const char* key) { return row.is_object() && row.contains(key) && row[key].is_number() ? row[key].get<double>() : NAN; }

std::string shown(double v, const char* format) { return std::isfinite(v) ? fmt::format(fmt::runtime(format), v) : "-"; }
/// Zeros at the end stay, so that all numbers of a column show as much.
std::string three_digits(double v) {
  std::string text = shown(v, "{:#.3g}");
  if (text.back() == '.') text.pop_back();
  return text;
}
/// How wide a UTF-8 text is printed: its bytes but those that continue a character.
std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

const Json* last_with(const std::vector<Json>& rows, const char* key) {
  for (auto it = rows.rbegin(); it != rows.rend(); ++it)
    if (it->contains(key)) return &*it;
  return nullptr;
}

/// Mean over heads of a statistic of one layer, largest over the run's logged steps and at the last one.
struct Span {
  double first = NAN, largest = NAN, last = NAN;
};
Span over_training(const std::vector<Json>& rows, std::size_t layer, const char* field) {
  Span s;
  for (const Json& row : rows) {
    if (!row.contains("attention") || row["attention"].size() <= layer || !row["attention"][layer].contains(field)) continue;
    std::vector<double> heads;
    for (const Json& v : row["attention"][layer][field]) heads.push_back(v.is_number() ? v.get<double>() : NAN);
    const double mean = std::accumulate(heads.begin(), heads.end(), 0.0) / static_cast<double>(heads.size());
    if (std::isnan(s.first)) s.first = mean;
    if (!(mean <= s.largest) && !std::isnan(mean)) s.largest = mean;  // what is no number hides nothing that was seen before
    s.last = mean;
  }
  return s;
}

}  // namespace

int compare_verb(const Args& args) {
  std::string html = "compare.html", log_format = "text";
  bool help = false;
  train::Options options;
  options("html", html, "where to write the page");
  options("log_format", log_format, "text, or json: one object on stdout");
  options("help", help, "print this, and stop");
  const std::optional<Args> found = read_words(options, args, usage);
  if (!found) return ok;
  const Args& runs = *found;
  options.apply();
  if (runs.empty()) throw UsageError("compare: name the run folders, as in norma compare runs/a runs/b");
  const bool json = wants_json(log_format);
  if (html.empty()) throw UsageError("--html: is empty; name a file, or leave it out for compare.html");

  std::vector<inspect::PageRun> page;
  Json all = Json::array();
  std::size_t layers = 0;
  for (const std::string& path : runs) {
    train::RunRecord r = train::read_run(path);
    const Json* test = r.summary.is_object() ? &r.summary : last_with(r.rows, "test_accuracy");
    const Json* step = last_with(r.rows, "attention");
    if (step) layers = std::max(layers, (*step)["attention"].size());
    Json fro = Json::array();
    for (std::size_t l = 0; step && l < (*step)["attention"].size(); ++l) {
      const Span s = over_training(r.rows, l, "fro");
      fro.push_back({{"first", s.first}, {"largest", s.largest}, {"last", s.last}});
    }
    all.push_back({{"run", path}, {"attention", r.config.value("attention", "?")}, {"test_accuracy", test ? number(*test, "test_accuracy") : NAN},
                   {"test_loss", test ? number(*test, "test_loss") : NAN}, {"seconds", number(r.summary, "seconds")}, {"ending", r.status.ending}, {"fro", fro}});
    page.push_back({r.name, r.config, r.summary, r.rows, r.note, train::read_records(path, inspect::page_bytes / runs.size()), r.status.ending, r.tokens});
  }
  const auto write_page = [&] {  // last: where it cannot be written the table is there
    const std::string text = inspect::make_page(fmt::format("Norma: {} run{} compared", runs.size(), runs.size() == 1 ? "" : "s"), page);
    train::write_file_atomically(html, std::as_bytes(std::span(text.data(), text.size())));
  };
  if (json) {
    print_result({{"runs", all}, {"html", html}}, true);
    write_page();
    return ok;
  }
  std::size_t run_width = 20, attention_width = 18;  // of the first two columns
  for (const Json& r : all) {
    run_width = std::max(run_width, r["run"].get<std::string>().size());
    attention_width = std::max(attention_width, r["attention"].get<std::string>().size());
  }
  const auto names = [&](const std::string& run, const std::string& attention) {
    return fmt::format("{:<{}} {:<{}}", run, run_width, attention, attention_width);
  };
  fmt::print("{} {:>9} {:>10} {:>9}\n", names("run", "attention"), "test acc.", "test loss", "seconds");
  for (const Json& r : all)
    fmt::print("{} {:>9} {:>10} {:>9}\n", names(r["run"], r["attention"]), shown(number(r, "test_accuracy") * 100, "{:.2f} %"), shown(number(r, "test_loss"), "{:.4f}"),
               std::isnan(number(r, "seconds")) && r["ending"] != "" ? r["ending"].get<std::string>() : shown(number(r, "seconds"), "{:.0f}"));
  fmt::print("\n||A||_F by block (mean over heads and batch): first step → largest → last logged step\n{}", names("run", "attention"));
  const auto norms = [](const Json& s) {
    return fmt::format("{} → {} → {}", three_digits(number(s, "first")), three_digits(number(s, "largest")), three_digits(number(s, "last")));
  };
  std::size_t column = 22;
  for (const Json& r : all)
    for (const Json& s : r["fro"]) column = std::max(column, columns(norms(s)) + 1);
  for (std::size_t l = 0; l < layers; ++l) fmt::print(" {:>{}}", fmt::format("block {}", l + 1), column);
  fmt::print("\n");
  for (const Json& r : all) {
    fmt::print("{}", names(r["run"], r["attention"]));
    for (const Json& s : r["fro"]) fmt::print(" {:>{}}", norms(s), column);
    fmt::print("\n");
  }
  write_page();
  fmt::print("\npage: {}\n", html);
  return ok;
}

}  // namespace norma::apps
