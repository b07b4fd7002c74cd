// norma data: what data sets are known and where they lie; norma data get fetches and checks one.
#include "apps/progress.h"
#include "apps/verbs.h"
#include "datasets/catalog.h"
#include "datasets/dataset.h"
#include "datasets/fetch.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma data [flags]                          what is known, installed, and where it is looked for
       norma data get NAME --from FOLDER|URL       copy or download, check the SHA-256, put in place

URL is an http:// address of a folder that holds the files under their usual names. Data sets are looked for in --data-dir, in the folder
that the environment variable NORMA_DATA names, in ~/.cache/norma, and in /usr/share/datasets. A new one is put where it is looked for
first.
)";

/// The first place that holds every file of the set, or an empty path.
std::filesystem::path installed_at(const datasets::KnownSet& set, const std::filesystem::path& data_dir) {
  for (const auto& place : datasets::locations(set.name, data_dir)) {
    bool all = true;
    for (const auto& file : set.files) all &= !datasets::find_file(place, file).empty();
    if (all) return place;
  }
  return {};
}

void list(const std::string& data_dir, bool json) {
  auto rows = nlohmann::ordered_json::array();
  for (const auto& set : datasets::catalog()) {
    nlohmann::ordered_json looked = nlohmann::ordered_json::array();
    for (const auto& place : datasets::locations(set.name, data_dir)) looked.push_back(place.string());
    const auto at = installed_at(set, data_dir);
    rows.push_back({{"name", set.name}, {"about", set.about}, {"licence", set.licence}, {"source", set.source},
                    {"installed", at.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(at.string())}, {"looked_in", looked}, {"get", set.get}});
  }
  if (json) {
    fmt::print("{}\n", rows.dump());
    return;
  }
  for (auto& r : rows) {
    fmt::print("{}\n  {}\n  licence    {}\n  source     {}\n", r["name"].get<std::string>(), r["about"].get<std::string>(), r["licence"].get<std::string>(), r["source"].get<std::string>());
    if (r["installed"].is_null()) {
      fmt::print("  installed  no; get it with: {}\n  looked in  ", r["get"].get<std::string>());
      for (std::size_t i = 0; i < r["looked_in"].size(); ++i) fmt::print("{}{}", i ? "\n             " : "", r["looked_in"][i].get<std::string>());
      fmt::print("\n");
    } else {
      fmt::print("  installed  {}\n", r["installed"].get<std::string>());
    }
  }
}

}  // namespace

int data_verb(const Args& args) {
  std::string from, data_dir, log_format = "text";
  bool help = false;
  train::Options options;
  options("from", from, "get: folder or http:// address that holds the files");
  options("data_dir", data_dir, "folder of data sets to look in first, and to put new ones in");
  options("log_format", log_format, "text, or json");
  options("help", help, "print this, and stop");
  const std::optional<Args> found = read_words(options, args, usage);
  if (!found) return ok;
  const Args& words = *found;
  options.apply();
  const bool json = wants_json(log_format);
  if (words.empty()) {
    list(data_dir, json);
    return ok;
  }
  if (words[0] != "get") throw UsageError(fmt::format("data: unknown word \"{}\" (did you mean \"get\"?); see norma data --help", words[0]));
  if (words.size() != 2) throw UsageError("data get: name one data set, as in norma data get cifar-10 --from FOLDER; see norma data");
  const auto& set = [&]() -> const datasets::KnownSet& {
    try {
      return datasets::known_set(words[1]);
    } catch (const Error& e) {
      throw UsageError(e.what());
    }
  }();
  if (from.empty()) throw UsageError(fmt::format("data get {}: say where from: --from FOLDER or --from http://...; {}", set.name, set.get));
  const bool terminal = redraws();
  const auto folder = datasets::fetch(set, from, data_dir, [&](const std::string& file, std::uint64_t done, std::uint64_t total) {
    if (terminal && total) tell("\r\033[K{} {:.0f} %", file, 100.0 * static_cast<double>(done) / static_cast<double>(total));
  });
  if (terminal) tell("\r\033[K");
  print_result({{"data", set.name}, {"folder", folder.string()}}, json);
  return ok;
}

}  // namespace norma::apps
