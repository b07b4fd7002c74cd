#include "inspect/page.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <string_view>

namespace norma::inspect {

// The files in inspect/page/, made into strings by CMake (CMakeLists.txt says which are in which).
extern const char page_html[], page_css[], page_common[], page_report[], page_live[];

namespace {

using Json = nlohmann::ordered_json;

void put(std::string& page, std::string_view mark, std::string_view text) {
  page.replace(page.find(mark), mark.size(), text);
}

/// Every number of an array, or of the arrays in it, with the seven digits that f32 carries.
void round_to_f32(Json& numbers) {
  if (numbers.is_structured())
    for (Json& v : numbers) round_to_f32(v);
  if (!numbers.is_number_float()) return;
  double v = numbers.get<double>();
  const std::string text = fmt::format("{:.7g}", v);
  std::from_chars(text.data(), text.data() + text.size(), v);  // whatever decimal point the process's locale has
  numbers = v;
}

/// Rows repeat the name of every parameter; on the page it stands once: "parameters" becomes columns of numbers in the
/// order of `names`.
Json with_columns(Json row, const std::vector<std::string>& names) {
  if (!row.contains("parameters")) return row;
  Json columns = {{"weight", Json::array()}, {"grad", Json::array()}, {"update", Json::array()}};
  std::map<std::string_view, const Json*> measured;
  for (const auto& [name, measures] : row["parameters"].items()) measured[name] = &measures;
  for (const std::string& name : names)
    for (auto& [key, column] : columns.items()) {
      const auto found = measured.find(name);
      column.push_back(found != measured.end() && found->second->contains(key) ? found->second->at(key) : Json());
    }
  row["parameters"] = std::move(columns);
  return row;
}

std::vector<std::string> parameter_names(const std::vector<Json>& rows) {
  std::vector<std::string> names;
  for (const Json& row : rows) {
    if (!row.contains("parameters")) continue;
    for (const auto& [name, measures] : row["parameters"].items()) names.push_back(name);
    break;
  }
  return names;
}

}  // namespace

Json run_json(const PageRun& run, std::size_t from) {
  const std::vector<std::string> names = parameter_names(run.rows);
  const auto dtype = run.config.find("dtype");
  const bool wide = dtype != run.config.end() && *dtype == "f64";
  Json rows = Json::array();
  for (std::size_t i = from; i < run.rows.size(); ++i) {
    rows.push_back(with_columns(run.rows[i], names));
    if (!wide && rows.back().contains("attention")) round_to_f32(rows.back()["attention"]);
  }
  return {{"name", run.name},       {"config", run.config},     {"tokens", run.tokens},
          {"summary", run.summary}, {"ending", run.ending},     {"note", run.note},
          {"setting", run.setting}, {"left_out", run.left_out}, {"seconds", run.seconds},
          {"steps", run.steps},     {"parameters", names},      {"generation", run.generation},
          {"from", from},           {"rows", std::move(rows)},  {"recording", page_data(run.recording)}};
}

std::string page_title(std::span<const PageRun> runs) {
  return runs.size() == 1 ? "Norma: " + runs[0].name : fmt::format("Norma: {} runs", runs.size());
}

std::string make_page(const std::string& title, std::span<const PageRun> runs,
                      const std::vector<std::string>& differences, const std::string& nonce) {
  const bool live = !nonce.empty();
  Json data = {{"title", title}, {"live", live}, {"runs", Json::array()}, {"differences", differences}};
  for (const PageRun& r : runs) data["runs"].push_back(run_json(r));
  const std::string allowed = live ? fmt::format("'nonce-{}'", nonce) : "'unsafe-inline'",
                    mark = live ? fmt::format(" nonce=\"{}\"", nonce) : "";
  std::string page = page_html;
  put(page, "/*POLICY*/",
      fmt::format("default-src 'none'; style-src {0}; script-src {0}{1}", allowed, live ? "; connect-src 'self'" : ""));
  put(page, "/*NONCE*/", mark);  // of the style sheet
  put(page, "/*NONCE*/", mark);  // of the script
  put(page, "/*REPORT*/", page_report);
  put(page, "/*LIVE*/", live ? page_live : "");
  return fill_page(page, data);
}

std::string fill_page(std::string page, const Json& data) {
  // Inside <script> only "<" could end the data; JSON may spell it as an escape. Invalid UTF-8 is replaced.
  std::string text = data.dump(-1, ' ', false, Json::error_handler_t::replace), safe;
  for (char c : text) c == '<' ? safe += "\\u003c" : safe += c;
  put(page, "/*STYLE*/", page_css);
  put(page, "/*COMMON*/", page_common);
  put(page, "/*DATA*/null", safe);
  return page;
}

}  // namespace norma::inspect
