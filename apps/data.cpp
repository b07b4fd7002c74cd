// norma data: what data sets are known and where they lie; norma data get fetches and checks one.
#include "apps/progress.h"
#include "apps/verbs.h"
#include "datasets/catalog.h"
#include "datasets/dataset.h"
#include "datasets/fetch.h"

namespace norma::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* usage =
    R"(usage: norma data [flags]                          what is known, installed, and where it is looked for
       norma data get NAME --from FOLDER|URL       copy or download, check the SHA-256, put in place

URL is an http:// address of a folder that holds the files under their usual names. Data sets are looked for in --data-dir, and nowhere
else where it is given; without it in the folder that the environment variable NORMA_DATA names, in ~/.cache/norma, and in
/usr/share/datasets. A new one is put where it is looked for first.
)";

void list(const std::string& data_dir, bool json) {
  Json rows = Json::array();
  for (const auto& set : datasets::catalog()) {
    Json looked = Json::array();
    for (const auto& place : datasets::locations(set.name, data_dir)) looked.push_back(place.string());
    const datasets::Installed at = datasets::find_set(set, data_dir);
    const bool whole = !at.folder.empty() && at.missing.empty();
    rows.push_back({{"name", set.name},
                    {"about", set.about},
                    {"licence", set.licence},
                    {"source", set.source},
                    {"installed", whole ? Json(at.folder.string()) : Json()},
                    {"looked_in", looked},
                    {"get", set.get}});
    if (at.folder.empty() && !data_dir.empty())
      if (const auto usual = datasets::find_set(set).folder; !usual.empty()) rows.back()["elsewhere"] = usual.string();
    if (!at.missing.empty()) rows.back()["incomplete"] = {{"folder", at.folder.string()}, {"missing", at.missing}};
  }
  if (json) return print_result(rows, true);
  for (auto& r : rows) {
    const auto text = [&](const char* key) { return r[key].get<std::string>(); };
    fmt::print("{}\n  {}\n  licence    {}\n  source     {}\n", text("name"), text("about"), text("licence"),
               text("source"));
    if (!r["installed"].is_null()) {
      fmt::print("  installed  {}\n", text("installed"));
    } else if (r.contains("incomplete")) {
      fmt::print("  installed  in part, in {}: {} missing; get it with: {}\n",
                 r["incomplete"]["folder"].get<std::string>(), r["incomplete"]["missing"].get<std::string>(),
                 text("get"));
    } else {
      fmt::print("  installed  no; get it with: {}\n  looked in  ", text("get"));
      for (std::size_t i = 0; i < r["looked_in"].size(); ++i)
        fmt::print("{}{}", i ? "\n             " : "", r["looked_in"][i].get<std::string>());
      fmt::print("\n");
      if (r.contains("elsewhere")) fmt::print("  elsewhere  {}, which is read without --data-dir\n", text("elsewhere"));
    }
  }
}

}  // namespace

int data_verb(const Args& args) {
  std::string from, data_dir;
  train::Options options;
  options("from", from, "get: folder or http:// address that holds the files");
  options("data_dir", data_dir, "folder of data sets to look in, and to put new ones in");
  const auto given = read_given(options, args, usage, "text, or json");
  if (!given) return ok;
  const auto& [words, json] = *given;
  if (words.empty()) {
    if (!from.empty())
      throw UsageError("--from: is for norma data get; name the data set, as in norma data get cifar-10 --from " +
                       from);
    list(data_dir, json);
    return ok;
  }
  if (words[0] != "get")
    throw UsageError(fmt::format("data: unknown word \"{}\" (did you mean \"get\"?); see norma data --help", words[0]));
  if (words.size() != 2)
    throw UsageError("data get: name one data set, as in norma data get cifar-10 --from FOLDER; see norma data");
  const auto& set =
      as_usage("", [&words = words]() -> const datasets::KnownSet& { return datasets::known_set(words[1]); });
  if (from.empty())
    throw UsageError(
        fmt::format("data get {}: say where from: --from FOLDER or --from http://...; {}", set.name, set.get));
  const bool terminal = redraws();
  const auto folder =
      datasets::fetch(set, from, data_dir, [&](const std::string& file, std::uint64_t done, std::uint64_t total) {
        if (terminal && total)
          tell("\r\033[K{} {:.0f} %", file, 100.0 * static_cast<double>(done) / static_cast<double>(total));
      });
  if (terminal) tell("\r\033[K");
  print_result({{"data", set.name}, {"folder", folder.string()}}, json);
  return ok;
}

}  // namespace norma::apps
