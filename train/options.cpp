#include "train/options.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>

#include "core/suggest.h"
#include "core/terminal.h"
#include "core/text.h"
#include "train/json.h"

namespace norma::train {
namespace {

template <class... Args>
[[noreturn]] void usage(fmt::format_string<Args...> text, Args&&... args) {
  throw UsageError(fmt::format(text, std::forward<Args>(args)...));
}

std::string spelled(std::string name, char from, char to) {
  for (char& c : name)
    if (c == from) c = to;
  return name;
}

/// Throws where `text` is a number that T cannot hold.
template <class T>
bool parse_number(const std::string& text, T& value, const std::string& where) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) usage("{}: {} is beyond what a number holds here", where, text);
  return error == std::errc{} && end == text.data() + text.size();
}

/// How a JSON value would be written as a flag's text.
std::string as_text(const nlohmann::ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

bool fits(const nlohmann::ordered_json& v, std::size_t kind) {
  switch (kind) {
    case 0: return v.is_string();
    case 1: return v.is_number_integer();
    case 2: return v.is_number();
    default: return v.is_boolean();
  }
}
constexpr const char* kinds[] = {"a text", "a whole number", "a number", "true or false"};

/// What other programs call our fields, without '_' and '-'; the names are those of timm, DeiT, Hugging Face, Lightning
/// and nanoGPT.
constexpr std::pair<std::string_view, const char*> elsewhere[] = {{"learningrate", "lr"},
                                                                  {"baselr", "lr"},
                                                                  {"stepsize", "lr"},
                                                                  {"blr", "lr"},
                                                                  {"minlearningrate", "min_lr"},
                                                                  {"lrmin", "min_lr"},
                                                                  {"b", "batch"},
                                                                  {"bs", "batch"},
                                                                  {"batchsize", "batch"},
                                                                  {"trainbatchsize", "batch"},
                                                                  {"perdevicetrainbatchsize", "batch"},
                                                                  {"minibatch", "batch"},
                                                                  {"numepochs", "epochs"},
                                                                  {"nepochs", "epochs"},
                                                                  {"numtrainepochs", "epochs"},
                                                                  {"maxepochs", "epochs"},
                                                                  {"maxsteps", "steps"},
                                                                  {"numsteps", "steps"},
                                                                  {"maxiters", "steps"},
                                                                  {"iterations", "steps"},
                                                                  {"iters", "steps"},
                                                                  {"opt", "optimizer"},
                                                                  {"optim", "optimizer"},
                                                                  {"sched", "schedule"},
                                                                  {"scheduler", "schedule"},
                                                                  {"lrscheduler", "schedule"},
                                                                  {"lrschedulertype", "schedule"},
                                                                  {"wd", "weight_decay"},
                                                                  {"decay", "weight_decay"},
                                                                  {"l2", "weight_decay"},
                                                                  {"warmup", "warmup_epochs"},
                                                                  {"warmupsteps", "warmup_epochs"},
                                                                  {"warmupiters", "warmup_epochs"},
                                                                  {"gradclip", "clip"},
                                                                  {"clipgrad", "clip"},
                                                                  {"maxgradnorm", "clip"},
                                                                  {"gradientclipval", "clip"},
                                                                  {"clipnorm", "clip"},
                                                                  {"smoothing", "label_smoothing"},
                                                                  {"modelemadecay", "ema"},
                                                                  {"emadecay", "ema"},
                                                                  {"modelema", "ema"},
                                                                  {"embeddim", "width"},
                                                                  {"hiddensize", "width"},
                                                                  {"hiddendim", "width"},
                                                                  {"dim", "width"},
                                                                  {"dmodel", "width"},
                                                                  {"nembd", "width"},
                                                                  {"layers", "depth"},
                                                                  {"numlayers", "depth"},
                                                                  {"nlayer", "depth"},
                                                                  {"numhiddenlayers", "depth"},
                                                                  {"blocks", "depth"},
                                                                  {"numheads", "heads"},
                                                                  {"nhead", "heads"},
                                                                  {"numattentionheads", "heads"},
                                                                  {"patchsize", "patch"},
                                                                  {"imgsize", "image"},
                                                                  {"imagesize", "image"},
                                                                  {"inputsize", "image"},
                                                                  {"numclasses", "classes"},
                                                                  {"nbclasses", "classes"},
                                                                  {"inchans", "channels"},
                                                                  {"inchannels", "channels"},
                                                                  {"drop", "dropout"},
                                                                  {"attndrop", "dropout"},
                                                                  {"attndroprate", "dropout"},
                                                                  {"activation", "attention"},
                                                                  {"attn", "attention"},
                                                                  {"arch", "preset"},
                                                                  {"size", "preset"},
                                                                  {"dataset", "data"},
                                                                  {"datapath", "data_dir"},
                                                                  {"dataroot", "data_dir"},
                                                                  {"root", "data_dir"},
                                                                  {"hflip", "flip"},
                                                                  {"randaug", "rand_augment"},
                                                                  {"autoaugment", "rand_augment"},
                                                                  {"aa", "rand_augment"},
                                                                  {"output", "out"},
                                                                  {"outputdir", "out"},
                                                                  {"outdir", "out"},
                                                                  {"savedir", "out"},
                                                                  {"logdir", "out"},
                                                                  {"runname", "out"},
                                                                  {"randomseed", "seed"},
                                                                  {"manualseed", "seed"},
                                                                  {"workers", "threads"},
                                                                  {"numworkers", "threads"},
                                                                  {"numthreads", "threads"},
                                                                  {"jobs", "threads"},
                                                                  {"j", "threads"},
                                                                  {"precision", "dtype"},
                                                                  {"amp", "dtype"},
                                                                  {"bf16", "dtype"},
                                                                  {"fp16", "dtype"},
                                                                  {"gpu", "device"},
                                                                  {"accelerator", "device"},
                                                                  {"loginterval", "log_every"},
                                                                  {"loggingsteps", "log_every"},
                                                                  {"savesteps", "checkpoint_every"},
                                                                  {"savefreq", "checkpoint_every"},
                                                                  {"continue", "resume"},
                                                                  {"json", "log_format"},
                                                                  {"format", "log_format"},
                                                                  {"page", "html"}};

/// Ours for what other programs call so; "" where none of them does.
std::string_view named_elsewhere(const std::string& name) {
  std::string plain;
  for (const char c : name)
    if (c != '_' && c != '-') plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const auto& [theirs, ours] : elsewhere)
    if (plain == theirs) return ours;
  return {};
}

}  // namespace

void Options::add(const char* name, Field field, const char* help) {
  std::string text = std::visit(
      [](auto* f) -> std::string {
        if constexpr (std::is_same_v<decltype(f), std::string*>)
          return *f;
        else
          return nlohmann::json(*f).dump();
      },
      field);
  const auto other = described_.find(name);
  rows_.push_back({name, field, other == described_.end() ? help : other->second, group_, text, true, in_files_});
}

void Options::only(const std::vector<std::string>& wanted) {
  const auto named = [&](const std::string& s) { return std::find(wanted.begin(), wanted.end(), s) != wanted.end(); };
  for (Row& r : rows_) r.flag = named(r.group) || named(r.name);
}

const Options::Row& Options::find(const std::string& name, const std::string& where) const {
  std::vector<std::string> names;
  const bool flag = where.starts_with("--") || where == "-" + spelled(name, '_', '-');
  const auto spelling = [&](const std::string& field) { return flag ? "--" + spelled(field, '_', '-') : field; };
  const std::string_view theirs = named_elsewhere(name);
  std::string near;
  for (const Row& r : rows_) {
    if (flag && !r.flag) {
      if (r.name == name && where.starts_with("--")) usage("{} means nothing here; see --help", where);
      continue;
    }
    if (r.name == name && (!flag || where.starts_with("--"))) return r;
    if (r.name == theirs || (flag && r.name == name)) near = spelling(r.name);  // -lr is --lr
    names.push_back(spelling(r.name));
    if (flag && std::holds_alternative<bool*>(r.field) && where.starts_with("--no-"))
      names.push_back("--no-" + spelled(r.name, '_', '-'));
  }
  if (near.empty()) near = suggest(flag ? where : name, names);
  usage(
      "{}{}", flag ? fmt::format("unknown flag {}", where) : fmt::format("{}: unknown key {}", where, in_quotes(name)),
      near.empty() ? std::string("; see --help") : fmt::format(" (did you mean {}?)", flag ? near : '"' + near + '"'));
}

/// The switch `flip` for "no_flip", null for any other name.
const Options::Row* Options::switched_off(std::string_view name) const {
  if (!name.starts_with("no_")) return nullptr;
  for (const Row& r : rows_)
    if (r.name == name.substr(3) && std::holds_alternative<bool*>(r.field)) return &r;
  return nullptr;
}

std::vector<std::string> Options::read_flags(const std::vector<std::string>& args) {
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string a = args[i] == "-h" ? "--help" : args[i];
    if (!a.starts_with("--")) {
      const std::string word = a.substr(0, a.find('='));
      if (word.size() > 1 && word[0] == '-' && std::isalpha(static_cast<unsigned char>(word[1])))
        find(spelled(word.substr(1), '-', '_'), word);  // -lr: tells what is meant
      rest.push_back(a);
      continue;
    }
    const std::size_t equals = a.find('=');
    const std::string flag = a.substr(0, equals);
    std::string name = spelled(flag.substr(2), '-', '_');
    if (const Row* off = switched_off(name)) {  // --no-flip
      if (equals != std::string::npos) usage("{} takes no value", flag);
      flags_.emplace_back(off->name, "false");
      continue;
    }
    const Row& row = find(name, flag);
    if (equals != std::string::npos)
      flags_.emplace_back(name, a.substr(equals + 1));
    else if (std::holds_alternative<bool*>(row.field))
      flags_.emplace_back(name, "true");
    else if (i + 1 == args.size())
      usage("{} needs a value: {}", flag, row.help);
    else if (args[i + 1].starts_with("--"))  // "--out $DIR --resume" of an empty DIR
      usage("{0} needs a value, and {1} begins as a flag does; write {0}={1} if that is meant", flag, args[i + 1]);
    else
      flags_.emplace_back(name, args[++i]);
  }
  return rest;
}

void Options::read_json(const std::filesystem::path& file) {
  if (std::filesystem::is_directory(file)) usage("{}: is a folder; name a file", file.string());
  std::ifstream in(file);
  if (!in) usage("{}: cannot be read; is the path right?", file.string());
  std::stringstream text;
  text << in.rdbuf();
  read_json(text.str(), file.string());
}

void Options::read_json(const std::string& text, const std::string& from) {
  const nlohmann::ordered_json object = as_usage("", [&] { return parse_json(text, from, {.allow_comments = true}); });
  if (!object.is_object()) usage("{}: the file must hold one JSON object, {{ \"key\": value, ... }}", from);
  json_name_ = from;
  for (auto& [key, value] : object.items()) {
    const Row& row = find(key, from);
    if (!row.in_files)
      usage("{}: \"{}\" is a flag of the command line, no field of a configuration; leave it out", from, key);
    if (!fits(value, row.field.index()))
      usage("{}: \"{}\" is {}, it must be {}", from, key, shortened(value.dump(), 80), kinds[row.field.index()]);
    keys_.emplace_back(key, value);
  }
}

std::optional<std::string> Options::given(const std::string& name) const {
  for (auto it = flags_.rbegin(); it != flags_.rend(); ++it)
    if (it->first == name) return it->second;
  for (auto& [key, value] : keys_)
    if (key == name) return as_text(value);
  return std::nullopt;
}

std::map<std::string, std::string> Options::from_json() const {
  std::map<std::string, std::string> out;
  for (auto& [key, value] : keys_) out[key] = json_name_;
  for (auto& [name, text] : flags_) out.erase(name);
  return out;
}

void Options::set(const Row& row, const std::string& text, const std::string& where) const {
  const bool ok = std::visit(
      [&](auto* field) {
        using T = std::remove_pointer_t<decltype(field)>;
        if constexpr (std::is_same_v<T, std::string>) {
          // It is written to config.json and into checkpoints.
          if (const std::size_t bad = invalid_utf8(text); bad != text.npos)
            usage("{}: the text is not UTF-8 (byte {})", where, bad);
          *field = text;
          return true;
        } else if constexpr (std::is_same_v<T, bool>) {
          if (text != "true" && text != "false") return false;
          *field = text == "true";
          return true;
        } else if constexpr (std::is_same_v<T, double>) {
          return parse_number(text, *field, where) && std::isfinite(*field);
        } else {
          return parse_number(text, *field, where);
        }
      },
      row.field);
  if (!ok) usage("{}: \"{}\" is not {}; {}", where, text, kinds[row.field.index()], row.help);
}

void Options::apply() {
  for (auto& [key, value] : keys_) set(find(key, json_name_), as_text(value), json_name_ + ": " + key);
  for (auto& [name, text] : flags_) {
    const std::string flag = "--" + spelled(name, '_', '-');
    set(find(name, flag), text, flag);
  }
}

nlohmann::ordered_json Options::to_json() const {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const Row& r : rows_) std::visit([&](auto* f) { out[r.name] = *f; }, r.field);
  return out;
}

std::string Options::help() const {
  std::string out, group;
  bool noted = false;
  const std::size_t width = std::max<std::size_t>(60, terminal_columns(STDOUT_FILENO, 100));
  for (const Row& r : rows_) {
    if (!r.flag) continue;
    if (r.group != group)
      out += fmt::format("\n{}:\n", group = r.group);
    else if (out.empty())
      out += "\n";
    const bool is_switch = std::holds_alternative<bool*>(r.field);
    std::string left = "--" + spelled(r.name, '_', '-') + (is_switch ? "" : r.field.index() == 0 ? " TEXT" : " N");
    std::string note = r.default_text.empty() || r.default_text == "false" ? "" : fmt::format(" [{}]", r.default_text);
    if (is_switch && r.default_text == "true")
      note = fmt::format(" [on; --no-{} turns it off]", spelled(r.name, '_', '-'));
    for (const std::string& line : wrapped(fmt::format("  {:<24} {}{}", left, r.help, note), width, 27))
      out += line + "\n";
    noted |= !note.empty();
  }
  return noted ? out + "\n[ ]: what holds where a flag is left out\n" : out;
}

}  // namespace norma::train
