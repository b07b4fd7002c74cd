#include "train/saved_run.h"

#include <algorithm>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/folder.h"
#include "core/text.h"
#include "train/event_file.h"
#include "train/metrics_tail.h"
#include "train/safetensors.h"
#include "train/step_files.h"

namespace norma::train {
namespace fs = std::filesystem;
namespace {

bool is_text(const Json& v) { return v.is_string(); }
/// Not those that wrap where they are read as Index.
bool is_whole(const Json& v) {
  return v.is_number_integer() && !(v.is_number_unsigned() && v.get<std::uint64_t>() > std::uint64_t{INT64_MAX});
}
bool is_count(const Json& v) { return is_whole(v) && v.get<Index>() >= 0; }
bool is_number(const Json& v) { return v.is_number(); }
bool is_measure(const Json& v) { return v.is_number() || v.is_null(); }  // null: it was not finite
bool is_object(const Json& v) { return v.is_object(); }

constexpr const char *whole = "a whole number below 2^63", *count = "a whole number from 0 to below 2^63";

struct Expected {
  const char* key;
  bool (*right)(const Json&);
  const char* what;
};
constexpr Expected of_config[] = {
    {"model", is_text, "a text"}, {"attention", is_text, "a text"}, {"pool", is_text, "a text"},
    {"data", is_text, "a text"},  {"optimizer", is_text, "a text"}, {"image", is_whole, whole},
    {"patch", is_whole, whole},   {"width", is_whole, whole},       {"depth", is_whole, whole},
    {"heads", is_whole, whole},   {"batch", is_whole, whole},       {"epochs", is_whole, whole},
    {"seed", is_whole, whole},    {"lr", is_number, "a number"}};
constexpr Expected of_row[] = {{"step", is_count, count}, {"epoch", is_number, "a number"}};
constexpr Expected sometimes_in_row[] = {{"loss", is_measure, "a number"},
                                         {"accuracy", is_measure, "a number"},
                                         {"lr", is_measure, "a number"},
                                         {"grad_norm", is_measure, "a number"},
                                         {"test_accuracy", is_measure, "a number"},
                                         {"test_loss", is_measure, "a number"},
                                         {"skipped", is_count, count},
                                         {"skipped_in_a_row", is_count, count}};
constexpr Expected of_summary[] = {{"steps", is_count, count},
                                   {"tokens", is_count, count},
                                   {"test_accuracy", is_measure, "a number"},
                                   {"test_loss", is_measure, "a number"},
                                   {"seconds", is_number, "a number"}};

constexpr Expected of_status[] = {{"ending", is_text, "a text"}, {"seconds", is_number, "a number"}};
constexpr Expected sometimes_in_status[] = {{"tokens", is_count, count},
                                            {"step", is_count, count},
                                            {"data_hash", is_text, "a text"},
                                            {"test_hash", is_text, "a text"}};

constexpr std::string_view checkpoint_begins = "checkpoint-";
constexpr const char* other_version = "was the run made by another version of norma?";

std::string shown(const Json& value) { return shortened(value.dump(), 60); }

void check_one(const Json& value, const std::string& key, bool right, const char* what, const std::string& where) {
  if (!right) fail("{}: {} is {}, it must be {}; {}", where, in_quotes(key), shown(value), what, other_version);
}

template <std::size_t n>
void check(const Json& object, const Expected (&table)[n], bool all, const std::string& where) {
  if (!object.is_object()) fail("{}: holds {}, it must hold an object; {}", where, shown(object), other_version);
  for (const Expected& e : table) {
    if (!all && !object.contains(e.key)) continue;
    if (!object.contains(e.key)) fail("{}: there is no \"{}\"; {}", where, e.key, other_version);
    check_one(object[e.key], e.key, e.right(object[e.key]), e.what, where);
  }
}

void check_row(const Json& row, const std::string& where) {
  check(row, of_row, true, where);
  check(row, sometimes_in_row, false, where);
  if (row.contains("attention")) {
    const Json& layers = row["attention"];
    check_one(layers, "attention", layers.is_array(), "a list of layers", where);
    for (const Json& layer : layers) {
      check_one(layer, "attention", is_object(layer), "a list of objects", where);
      if (!layer.contains("fro")) fail("{}: there is no \"fro\" in \"attention\"; {}", where, other_version);
      for (const auto& [field, heads] : layer.items()) {
        if (field == "place") {
          check_one(heads, field, is_text(heads), "a text", where);
          continue;
        }
        bool numbers = heads.is_array();
        for (const Json& v : heads) numbers = numbers && is_measure(v);
        check_one(heads, field, numbers, "a list of one number a head", where);
      }
    }
  }
  if (row.contains("parameters")) {
    const Json& parameters = row["parameters"];
    check_one(parameters, "parameters", is_object(parameters), "an object", where);
    for (const auto& [name, measures] : parameters.items()) {
      bool numbers = measures.is_object();
      for (const Json& v : measures) numbers = numbers && is_measure(v);
      check_one(measures, name, numbers, "an object of numbers", where);
    }
  }
}

/// The tokens for which the newest checkpoint has positions; 0 where there is none, or it cannot be read: whoever needs
/// its tensors will say so.
Index tokens_of_checkpoint(const fs::path& run) {
  const std::vector<fs::path> all = checkpoints(run);
  if (all.empty()) return 0;
  try {
    for (const safetensors::Entry& e : read_safetensors_header(all.back()).entries)
      if (e.name == "model/pos_embed" && e.shape.rank() == 3) return e.shape[1];
  } catch (const Error&) {
  }
  return 0;
}

/// From what tells it: the folders of earlier versions have it in summary.json alone.
Index tokens_of(const inspect::PageRun& run, const RunStatus& status, const fs::path& path) {
  if (run.summary.is_object()) return run.summary["tokens"];
  if (status.tokens > 0) return status.tokens;
  const Index image = run.config["image"], patch = run.config["patch"], side = patch > 0 ? image / patch : 0;
  if (side > 0 && side < 1 << 20) return side * side + (run.config["pool"] == "cls" ? 1 : 0);
  return tokens_of_checkpoint(path);
}

}  // namespace

std::vector<fs::path> checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  for (const Index step : steps_in(run, checkpoint_begins)) found.push_back(checkpoint_file(run, step));
  return found;
}

fs::path checkpoint_file(const fs::path& run, Index step) { return run / step_file(checkpoint_begins, step); }

Index step_of_checkpoint(const fs::path& file) { return step_of_file(checkpoint_begins, file.filename().string()); }

bool is_there(const fs::path& path) {
  std::error_code error;
  const bool there = fs::exists(path, error);
  if (error) fail("{}: cannot be looked at ({})", path.string(), error_text(error.value()));
  return there;
}

void check_kinds(const fs::path& run) {
  for (const auto& entry : entries_of(run)) {
    const std::string name = entry.path().filename().string();
    const bool folder = name == "record", file = name == "config.json" || name == "metrics.jsonl" ||
                                                 name == "status.json" || name == "summary.json" ||
                                                 step_of_checkpoint(name) >= 0 || is_event_file(name);
    std::error_code error;
    const fs::file_status there = entry.status(error);
    if ((!folder && !file) || !fs::exists(there) || (folder ? fs::is_directory(there) : fs::is_regular_file(there)))
      continue;
    fail("{}: is a {}, where a run has a {}; move it away, or name another run folder", entry.path().string(),
         fs::is_directory(there)      ? "folder"
         : fs::is_regular_file(there) ? "file"
                                      : "device or pipe",
         folder ? "folder" : "file");
  }
}

Json parse_row(std::string_view line, const std::string& where, std::string_view remedy) {
  Json row;
  try {
    row = parse_json(line, where, {});
  } catch (const Error& e) {
    fail("{}; {}", e.what(), remedy);
  }
  check_row(row, where);
  return row;
}

std::vector<Json> read_metrics(const fs::path& file, std::string& note) {
  MetricsTail::News all = MetricsTail(file).read();
  if (!all.wrong.empty()) throw Error(all.wrong);
  if (!all.cut.empty()) note = all.cut;
  return std::move(all.rows);
}

inspect::PageRun read_run_head(const fs::path& path) {
  const bool there = is_there(path);
  if (there && !fs::is_directory(path))
    fail("run folder {}: is a file; name the run's folder, as in {}", path.string(),
         path.has_parent_path() ? path.parent_path().string() : ".");
  if (!there) fail("run folder {}: there is no such folder", path.string());
  std::error_code error;
  if (fs::is_empty(path, error)) fail("run folder {}: is empty; has norma train --out written there?", path.string());
  if (error) fail("run folder {}: cannot be read ({})", path.string(), error_text(error.value()));
  check_kinds(path);
  if (!is_there(path / "config.json")) fail("run folder {}: holds no config.json; is it a run?", path.string());
  inspect::PageRun run;
  const fs::path whole = fs::absolute(path).lexically_normal();  // so that "." has a name too
  run.name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  run.config = read_json(path / "config.json");
  if (run.config.is_object() && run.config.contains("other"))
    fail(
        "run folder {}: is of norma twin, whose log has two runs in every line; read {}, or train each side by itself "
        "with norma train",
        path.string(), (path / "metrics.jsonl").string());
  check(run.config, of_config, true, (path / "config.json").string());
  if (is_there(path / "summary.json")) {
    run.summary = read_json(path / "summary.json");
    check(run.summary, of_summary, true, (path / "summary.json").string());
  }
  RunStatus status;
  try {
    status = read_status(path);
  } catch (const Error& e) {  // of no account for what the run has measured
    run.note = fmt::format("{}; left out", e.what());
  }
  // Until the first checkpoint they are those in which the run began.
  run.seconds = status.step == 0 && status.ending.empty() ? 0 : status.seconds;
  run.ending = status.ending, run.steps = std::max(status.step, Index{0}), run.tokens = tokens_of(run, status, path);
  run.data_hash = status.data_hash, run.test_hash = status.test_hash;
  return run;
}

RunStatus read_status(const fs::path& path) {
  const fs::path file = path / "status.json";
  if (!is_there(file)) return {};
  const Json status = read_json(file);
  check(status, of_status, true, file.string());
  check(status, sometimes_in_status, false, file.string());
  return {status["ending"],
          status["seconds"],
          status.value("tokens", Index{0}),
          status.value("step", Index{-1}),
          status.value("data_hash", ""),
          status.value("test_hash", "")};
}

inspect::PageRun read_run(const fs::path& path) {
  inspect::PageRun run = read_run_head(path);
  if (!is_there(path / "metrics.jsonl"))
    fail("run folder {}: holds no metrics.jsonl yet; has the run made a step?", path.string());
  std::string cut;
  run.rows = read_metrics(path / "metrics.jsonl", cut);
  if (!cut.empty()) run.note += (run.note.empty() ? "" : "\n") + cut;
  return run;
}

}  // namespace norma::train
