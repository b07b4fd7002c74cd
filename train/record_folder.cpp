#include "train/record_folder.h"

#include <algorithm>
#include <optional>

#include "train/json.h"
#include "train/prefix.h"
#include "train/safetensors.h"
#include "train/step_files.h"

namespace norma::train {
namespace fs = std::filesystem;
using inspect::ProbeImages, inspect::Record, inspect::Recording, inspect::RecordedLayer;
namespace {

constexpr const char* format_name = "norma-record-1";
constexpr std::string_view before = "step-";
constexpr Index moments_first = 16;  // so many steps are worth more than a second image

fs::path file_of(const fs::path& run, Index step) { return run / "record" / step_file(before, step); }

struct Found {
  ProbeImages images;
  Record record;
};

Found read_record(const fs::path& file, Index step) {
  const std::string name = file.string();
  const TensorFile content = read_safetensors(file);
  const auto format = content.metadata.find("format"), about = content.metadata.find("record");
  if (format == content.metadata.end() || about == content.metadata.end() || format->second != format_name)
    fail("{}: not a record of this program (format \"{}\", expected \"{}\")", name,
         format == content.metadata.end() ? "" : format->second, format_name);
  const Json j = parse_json(about->second, name);
  auto where = [&](const char* key) { return fmt::format("{}: \"{}\"", name, key); };
  as_int(member(j, "step", name), where("step"), step, step);

  Found found;
  ProbeImages& p = found.images;
  const Tensor* pixels = nullptr;
  for (const auto& [key, t] : content.tensors)
    if (key == "images") pixels = &t;
  if (!pixels || pixels->dtype() != DType::u8 || pixels->rank() != 4 || pixels->size(2) != pixels->size(3) ||
      pixels->numel() == 0)
    fail("{}: holds no \"images\" in u8, [images, channels, side, side]", name);
  p.count = pixels->size(0), p.channels = pixels->size(1), p.side = pixels->size(2);
  p.pixels.assign(pixels->data<std::uint8_t>(), pixels->data<std::uint8_t>() + pixels->numel());
  p.patch = as_int(member(j, "patch", name), where("patch"), 1, p.side);
  if (p.side % p.patch != 0) fail("{} {} does not divide the side {} of the images", where("patch"), p.patch, p.side);
  p.class_token = as_bool(member(j, "class_token", name), where("class_token"));
  for (const Json& label : member(j, "labels", name)) p.labels.push_back(as_string(label, where("labels")));
  if (static_cast<Index>(p.labels.size()) != p.count)
    fail("{} has {} entries for {} images", where("labels"), p.labels.size(), p.count);

  found.record.step = step;
  for (const auto& [place, a] : without_prefix("weights/", content.tensors)) {
    if (!is_floating(a.dtype()) || a.rank() != 4 || a.size(0) != p.count || a.size(1) == 0 || a.size(2) != p.tokens() ||
        a.size(3) != p.tokens())
      fail("{}: \"{}\" is {} {}, a record of {} images with {} tokens holds floats [{}, heads, {}, {}]", name, place,
           a.dtype(), a.shape(), p.count, p.tokens(), p.count, p.tokens(), p.tokens());
    const std::vector<double> wide = a.values();
    found.record.layers.push_back({place, a.size(1), {wide.begin(), wide.end()}});
  }
  if (found.record.layers.empty()) fail("{}: holds no \"weights/PLACE\"", name);
  return found;
}

Index numbers_an_image(const Found& f) {
  Index sum = 0;
  for (const RecordedLayer& layer : f.record.layers) sum += static_cast<Index>(layer.a.size());
  return sum / f.images.count;
}

void keep_images(ProbeImages& p, Index count) {
  p.pixels.resize(static_cast<std::size_t>(count * p.channels * p.side * p.side));
  p.labels.resize(static_cast<std::size_t>(count));
  p.count = count;
}

}  // namespace

void write_record(const fs::path& run, Index step, const ProbeImages& p, const nn::Named& weights) {
  std::error_code error;
  fs::create_directories(run / "record", error);
  if (error) fail("{}: cannot be made ({})", (run / "record").string(), error.message());
  nn::Named all = with_prefix("weights/", weights);
  all.emplace_back("images", from_host(p.pixels.data(), {p.count, p.channels, p.side, p.side}, {DType::u8}));
  const Json about = {{"step", step}, {"patch", p.patch}, {"class_token", p.class_token}, {"labels", p.labels}};
  write_safetensors(file_of(run, step), {all, {{"format", format_name}, {"record", about.dump()}}});
}

std::vector<Index> recorded_steps(const fs::path& run) { return steps_in(run / "record", before); }

void cut_records(const fs::path& run, Index step) {
  for (const Index later : recorded_steps(run)) {
    std::error_code error;
    if (later > step && !fs::remove(file_of(run, later), error) && error)
      fail("{}: is of a step after {}, where the run goes on, and cannot be removed ({})", file_of(run, later).string(),
           step, error.message());
  }
}

Recording read_records(const fs::path& run, std::size_t largest) {
  Recording out;
  std::vector<Index> steps = recorded_steps(run);
  auto read = [&](Index step) -> std::optional<Found> {
    try {
      return read_record(file_of(run, step), step);
    } catch (const Error& e) {
      out.notes.push_back(fmt::format("{}; this step is left out", e.what()));
      return std::nullopt;
    }
  };
  std::optional<Found> newest;
  while (!newest && !steps.empty()) {
    newest = read(steps.back());
    if (!newest) steps.pop_back();
  }
  if (!newest) return out;

  const ProbeImages all = newest->images;
  out.images = all;
  const double fit =
      static_cast<double>(largest) / inspect::page_bytes_a_number / static_cast<double>(numbers_an_image(*newest));
  const auto there = static_cast<Index>(steps.size()), together = std::min(there, moments_first);
  const Index images = std::clamp(static_cast<Index>(fit / static_cast<double>(together)), Index{1}, all.count);
  const Index shown =
      std::clamp(static_cast<Index>(fit / static_cast<double>(images)), std::min(there, Index{2}), there);
  keep_images(out.images, images);
  if (images < all.count)
    out.notes.push_back(
        fmt::format("{} of the {} recorded images are shown, to keep this page small", images, all.count));
  if (shown < there)
    out.notes.push_back(
        fmt::format("{} of the {} recorded steps are shown, evenly spaced, to keep this page small; all are in {}",
                    shown, there, (run / "record").string()));

  for (Index i = 0; i < shown; ++i) {
    const Index step = steps[static_cast<std::size_t>(shown == 1 ? 0 : i * (there - 1) / (shown - 1))];
    std::optional<Found> found = i + 1 == shown ? std::move(newest) : read(step);
    if (!found) continue;
    if (found->images != all) {
      out.notes.push_back(fmt::format("{}: is of other images than the newest record; this step is left out",
                                      file_of(run, step).string()));
      continue;
    }
    for (RecordedLayer& layer : found->record.layers)
      layer.a.resize(layer.a.size() / static_cast<std::size_t>(all.count) * static_cast<std::size_t>(images));
    out.records.push_back(std::move(found->record));
  }
  return out;
}

}  // namespace norma::train
