// Strict JSON, the one way in for JSON from files. nlohmann/json alone keeps the last of two equal keys, nests without
// limit, stops at a NUL byte, skips a BOM and turns -1, 2.5, 2^64 and true into sizes without a word; here each of
// these is an error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace norma::train {

using Json = nlohmann::ordered_json;

struct JsonOptions {
  bool allow_comments = false;  // // and /* */
  int max_depth = 64;
};

/// Throws `NAME: what at byte N` unless the text is one JSON value: valid UTF-8, no key twice in an object, numbers
/// finite, not deeper than allowed. Builds nothing.
void check_json(std::string_view text, const std::string& name, const JsonOptions& options = {});

/// Checked, then built.
Json parse_json(std::string_view text, const std::string& name, const JsonOptions& options = {});
/// The same of a file, which is the name.
Json read_json(const std::filesystem::path& file);

// Exact reads. `where` begins the error text: `config.json: "epochs"` gives `config.json: "epochs" is 2.5, expected an
// integer`.
std::int64_t as_int(const Json& value, const std::string& where,
                    std::int64_t low = std::numeric_limits<std::int64_t>::min(),
                    std::int64_t high = std::numeric_limits<std::int64_t>::max());
double as_double(const Json& value, const std::string& where);
bool as_bool(const Json& value, const std::string& where);
const std::string& as_string(const Json& value, const std::string& where);

/// object[key]; throws when `object` is no object or lacks the key.
const Json& member(const Json& object, const std::string& key, const std::string& name);

/// A number for a file: null where it is missing, infinite or no number, which JSON cannot say.
Json number_or_null(std::optional<double> value);

}  // namespace norma::train
