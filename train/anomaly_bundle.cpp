#include "train/anomaly_bundle.h"

#include <algorithm>
#include <map>

#include "core/atomic_file.h"
#include "core/folder.h"
#include "train/prefix.h"
#include "train/safetensors.h"

namespace norma::train {
namespace fs = std::filesystem;
namespace {

constexpr const char* format_name = "norma-anomaly-1";

Json row_of(const TensorSummary& s, const std::map<const Storage*, std::string>& names) {
  Json shape = Json::array();
  for (int axis = 0; axis < s.shape.rank(); ++axis) shape.push_back(s.shape[axis]);
  const auto name = names.find(s.storage);
  return {{"role", s.role},
          {"name", name == names.end() ? "" : name->second},
          {"shape", shape},
          {"dtype", fmt::format("{}", s.dtype)},
          {"min", number_or_null(s.min)},
          {"max", number_or_null(s.max)},
          {"mean", number_or_null(s.mean)},
          {"rms", number_or_null(s.rms)},
          {"elements", s.shape.numel()},
          {"non_finite", s.non_finite}};
}

/// Of "shape" or "index".
std::string sizes_text(const Json& row, const char* key) {
  std::string out;
  for (auto& size : member(row, key, "report"))
    out += fmt::format("{}{}", out.empty() ? "" : ", ", as_int(size, fmt::format("report: {}", key)));
  return "[" + out + "]";
}
std::string shape_text(const Json& row) { return sizes_text(row, "shape"); }

/// What an index means in a tensor of the model: "image 3, token 0, channel 5, head 0"; empty where its axes are
/// others.
std::string meaning(const std::vector<Index>& at, const Shape& shape, const models::ViTConfig& model, Index images,
                    const std::string& path) {
  constexpr const char* parts[] = {"query", "key", "value"};
  if (shape.rank() < 2 || shape[0] != images) return "";
  std::string text = fmt::format("image {}", at[0]);
  const Index head_width = model.width / model.heads, last = shape[shape.rank() - 1];
  if (shape.rank() == 5 && shape[2] == 3 && shape[3] == model.heads)  // packed: [B, T, 3, H, d]
    return text + fmt::format(", token {}, {}, head {}, channel {}", at[1], parts[at[2]], at[3], at[4]);
  if (shape.rank() == 4 && shape[1] == model.heads && (last == head_width || last == shape[2]))  // [B, H, T, d or T]
    return text + fmt::format(", head {}, token {}, {} {}", at[1], at[2], last == shape[2] ? "key" : "channel", at[3]);
  if (shape.rank() == 2 && last == model.classes) return text + fmt::format(", class {}", at[1]);
  if (shape.rank() != 3) return "";  // of rank 2 also weights, perhaps with as many rows as images
  text += fmt::format(", token {}, channel {}", at[1], at[2]);
  if (path.ends_with(".attn") && last == model.width) return text + fmt::format(", head {}", at[2] / head_width);
  if (path.ends_with(".qkv") && last == 3 * model.width)
    return text + fmt::format(", {} of head {}", parts[at[2] / model.width], at[2] % model.width / head_width);
  return text;
}

/// Where the first element is that is not finite.
Json first_of(const TensorSummary& s, const models::ViTConfig& model, Index images, const std::string& path) {
  std::vector<Index> at(static_cast<std::size_t>(s.shape.rank()));
  Index rest = s.first_non_finite;
  for (int axis = s.shape.rank(); axis-- > 0; rest /= s.shape[axis])
    at[static_cast<std::size_t>(axis)] = rest % s.shape[axis];
  return {{"index", at}, {"meaning", meaning(at, s.shape, model, images, path)}};
}

std::string first_text(const Json& report) {
  if (!report.contains("first")) return "";  // of an earlier version
  const std::string means = as_string(member(report["first"], "meaning", "report: first"), "report: first: meaning");
  return fmt::format(", the first at {}{}", sizes_text(report["first"], "index"), means.empty() ? "" : ": " + means);
}

std::string figure(const Json& row, const char* key) {
  const Json& value = member(row, key, "report");
  return value.is_null() ? "-" : fmt::format("{:.6g}", as_double(value, fmt::format("report: {}", key)));
}

std::string title(const Json& row) {
  const std::string role = as_string(member(row, "role", "report"), "report: role"),
                    name = as_string(member(row, "name", "report"), "report: name");
  return name.empty() ? role : fmt::format("{}: {}", role, name);
}

Index non_finite(const Json& row) { return as_int(member(row, "non_finite", "report"), "report: non_finite", 0); }

/// f(), whose errors are of what the file holds.
template <class F>
auto naming(const fs::path& file, F f) {
  try {
    return f();
  } catch (const Error& e) {
    const std::string text = e.what();
    fail("{}{}", text.starts_with(file.string()) ? "" : file.string() + ": ", text);
  }
}

fs::path json_of(const fs::path& path) {
  if (!fs::exists(path)) fail("{}: there is no such bundle or run folder", path.string());
  if (!fs::is_directory(path))
    return path.extension() == ".safetensors" ? fs::path(path).replace_extension(".json") : path;
  fs::path newest;
  for (const auto& entry : entries_of(path)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("anomaly-") && name.ends_with(".json") && (newest.empty() || newest < entry.path()))
      newest = entry.path();
  }
  if (newest.empty()) fail("{}: holds no anomaly-STEP.json; train with --anomaly to get one", path.string());
  return newest;
}

}  // namespace

Json report_of(const Anomaly& a, models::ViT& model, const datasets::Batch& batch, Index step) {
  std::map<const Storage*, std::string> names;
  for (auto& [name, t] : nn::state(model)) names[t.storage().get()] = name;
  names[batch.images.storage().get()] = "images";
  names[batch.labels.storage().get()] = "labels";
  const std::string path = nn::path_of(model, a.place);
  Json inputs = Json::array();
  for (const TensorSummary& s : a.inputs) inputs.push_back(row_of(s, names));
  Json report = {{"step", step},
                 {"op", a.op},
                 {"direction", a.backward ? "backward" : "forward"},
                 {"number", a.number},
                 {"place", !path.empty()                                       ? path
                           : a.place == &static_cast<const nn::Module&>(model) ? "model"
                                                                               : "loss"},
                 {"output", row_of(a.output, names)},
                 {"inputs", inputs}};
  if (a.output.first_non_finite >= 0) report["first"] = first_of(a.output, model.config(), batch.images.size(0), path);
  return report;
}

std::string report_text(const Json& r) {
  const auto text = [&](const char* key) {
    return as_string(member(r, key, "report"), fmt::format("report: {}", key));
  };
  const Json &output = member(r, "output", "report"), &inputs = member(r, "inputs", "report");
  std::string out = fmt::format(
      "step {}: the first value that is not finite is in the {} of {} in {} (op {} of the step): {} of {} elements{}\n",
      as_int(member(r, "step", "report"), "report: step"), text("direction") == "forward" ? "output" : "derivative",
      text("op"), text("place"), as_int(member(r, "number", "report"), "report: number"), non_finite(output),
      as_int(member(output, "elements", "report"), "report: elements"), first_text(r));
  if (!inputs.is_array()) fail("report: inputs is {}, expected a list", inputs.dump());
  std::size_t width = 0, shape_width = 0;
  std::string came_through;
  Json rows = inputs;
  rows.push_back(output);
  for (const Json& row : rows)
    width = std::max(width, title(row).size()), shape_width = std::max(shape_width, shape_text(row).size());
  for (const Json& row : rows)
    out +=
        fmt::format("  {:<{}}  {:<{}} {}  min {:>12}  max {:>12}  mean {:>12}  rms {:>12}  not finite {}\n", title(row),
                    width, shape_text(row), shape_width, as_string(member(row, "dtype", "report"), "report: dtype"),
                    figure(row, "min"), figure(row, "max"), figure(row, "mean"), figure(row, "rms"), non_finite(row));
  for (const Json& row : inputs)
    if (non_finite(row) > 0 && came_through.empty()) came_through = title(row);
  return out + (came_through.empty() ? "  all that went in is finite: this op made it\n"
                                     : fmt::format("  it came in through {}\n", came_through));
}

fs::path write_bundle(const fs::path& folder, const Bundle& b) {
  const fs::path json = folder / fmt::format("anomaly-{:09}.json", b.step),
                 tensors = fs::path(json).replace_extension(".safetensors");
  nn::Named all = b.state;
  all.emplace_back("batch/images", b.batch.images);
  all.emplace_back("batch/labels", b.batch.labels);
  write_safetensors(tensors, {all, {{"format", format_name}}});
  const Json text = {{"format", format_name},
                     {"tensors", tensors.filename().string()},
                     {"random", {{"seed", b.config.seed}, {"step", b.step}}},
                     {"step", b.step},
                     {"config", to_json(b.config)},
                     {"examples", b.batch.examples},
                     {"report", b.report}};
  write_atomically(json, text.dump(2) + "\n");
  return json;
}

Bundle read_bundle(const fs::path& path) {
  const fs::path file = json_of(path);
  const std::string name = file.string();
  const Json j = read_json(file);
  if (!j.is_object() || !j.contains("format"))
    fail("{}: is not a bundle, the anomaly-STEP.json that norma train --anomaly leaves in the run's folder", name);
  const std::string format = as_string(j["format"], name + ": \"format\"");
  if (format != format_name)
    fail("{}: format is \"{}\", expected \"{}\"; is it a bundle of this program?", name, format, format_name);
  Bundle b;
  b.file = file;
  b.step = as_int(member(j, "step", name), name + ": \"step\"", 0);
  b.report = member(j, "report", name);
  naming(file, [&] { return report_text(b.report); });
  b.config = written_config(member(j, "config", name), name + ": config");
  b.config.anomaly = true;
  const TensorFile tensors = read_safetensors(fs::path(file).replace_extension(".safetensors"));
  for (auto& [key, t] : tensors.tensors) {
    if (key == "batch/images")
      b.batch.images = t;
    else if (key == "batch/labels")
      b.batch.labels = t;
    else
      b.state.emplace_back(key, t);
  }
  if (!b.batch.images || !b.batch.labels) fail("{}: its tensors hold no batch/images and batch/labels", name);
  return b;
}

namespace {

Json report_of_step(const Bundle& b) {
  const models::ViTConfig shape = vit_config(b.config, 0, 0, 0);
  const Place place{parameter_dtype(b.config), parse_device(b.config.device)};
  models::ViT model(shape, static_cast<std::uint64_t>(b.config.seed), place);
  nn::assign(model, without_prefix("model/", b.state));
  const datasets::Batch batch{to(b.batch.images, place.device), to(b.batch.labels, place.device), b.batch.examples};
  const StepResult result = forward_backward(model, batch, b.config, b.step);
  if (!result.anomaly) return Json();
  Json report = report_of(*result.anomaly, model, batch, b.step);
  if (!b.report.contains("first")) report.erase("first");  // of an earlier version
  return report;
}

}  // namespace

Json replay(const Bundle& b) {
  return naming(b.file, [&] { return report_of_step(b); });
}

}  // namespace norma::train
