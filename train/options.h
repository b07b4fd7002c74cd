// One table of named fields that gives flags, JSON keys, --help and --print-config at once. A config is a plain struct with a
// method `fields(v)` that shows each field to a visitor by name; Options is that visitor.
//
//   defaults < preset < JSON file < flags; an unknown key or flag is an error with "did you mean".
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/dtype.h"

namespace norma::train {

/// A mistake in how the program was called: exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// f(), whose errors are such mistakes; `before` begins their texts.
template <class F>
decltype(auto) as_usage(const std::string& before, F f) {
  try {
    return f();
  } catch (const Error& e) {
    throw UsageError(before + e.what());
  }
}
/// f(), whose UsageErrors are of what a program wrote into a file, not of how this one was called.
template <class F>
decltype(auto) as_written(F f) {
  try {
    return f();
  } catch (const UsageError& e) {
    throw Error(e.what());
  }
}

class Options {
 public:
  /// Another help text, for a field to come that means something else to a verb.
  void describe(const char* name, const char* help) { described_[name] = help; }
  /// Headings of --help.
  void group(const char* title) { group_ = title; }
  /// Of the fields so far only those of these groups or names are flags: the others are left out of --help and refused. A config
  /// file may still hold them.
  void only(const std::vector<std::string>& groups_or_names);
  /// The fields that follow are flags only: a config file that holds one is refused.
  void of_command_line() { in_files_ = false; }
  void operator()(const char* name, std::string& field, const char* help) { add(name, &field, help); }
  void operator()(const char* name, Index& field, const char* help) { add(name, &field, help); }
  void operator()(const char* name, double& field, const char* help) { add(name, &field, help); }
  void operator()(const char* name, bool& field, const char* help) { add(name, &field, help); }

  /// Sorts arguments into flags ("--name value", "--name=value", "--flag", -h for --help) and the rest, which it returns. Nothing is set yet.
  std::vector<std::string> read_flags(const std::vector<std::string>& args);
  /// Reads a JSON object (// comments allowed); `from` names it in errors. Nothing is set yet.
  void read_json(const std::filesystem::path& file);
  void read_json(const std::string& text, const std::string& from);
  /// What flags or JSON say about a field, flags first.
  std::optional<std::string> given(const std::string& name) const;
  /// The fields whose value is the JSON's, and no flag's, each with the JSON's name.
  std::map<std::string, std::string> from_json() const;
  /// Sets the fields: JSON first, then flags. Throws UsageError naming the flag or key, the value, and what it should be.
  void apply();

  nlohmann::ordered_json to_json() const;
  std::string help() const;

 private:
  using Field = std::variant<std::string*, Index*, double*, bool*>;
  struct Row {
    std::string name;  // with underscores; flags use hyphens
    Field field;
    std::string help, group, default_text;
    bool flag = true, in_files = true;
  };
  void add(const char* name, Field field, const char* help);
  const Row& find(const std::string& name, const std::string& where) const;
  const Row* switched_off(std::string_view name) const;
  void set(const Row& row, const std::string& text, const std::string& where) const;

  std::vector<Row> rows_;
  std::vector<std::pair<std::string, std::string>> flags_;  // name, text
  std::vector<std::pair<std::string, nlohmann::ordered_json>> keys_;
  std::string json_name_;
  std::map<std::string, std::string> described_;
  const char* group_ = "";
  bool in_files_ = true;
};

}  // namespace norma::train
