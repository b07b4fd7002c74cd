// One SAX pass that checks what nlohmann/json lets through, then its parser.
#include "train/json.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace norma::train {

namespace {

/// Input of the parser that counts what was read, so that a handler knows the byte it is at.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at;
  std::size_t* consumed;
  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    ++*consumed;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
};

class Checker : public nlohmann::json_sax<Json> {
 public:
  Checker(std::string_view text, const std::string& name, int max_depth)
      : text_(text), name_(name), max_depth_(max_depth) {}
  std::size_t* consumed() { return &consumed_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    const std::size_t at = string_start();
    const auto [place, fresh] = keys_.back().emplace(key, at);
    if (!fresh) fail("{}: key {} appears twice (bytes {} and {})", name_, in_quotes(key), place->second, at);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string why = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 5: why"
    const std::size_t id = why.find("] "), colon = why.find(": ");
    why = why.substr(colon != std::string::npos ? colon + 2 : id != std::string::npos ? id + 2 : 0);
    const std::size_t at = position == 0 ? 0 : std::min(position - 1, text_.size());
    const std::string_view before = std::string_view(text_).substr(0, at);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t column = at - (before.rfind('\n') + 1);  // npos + 1 is 0
    fail("{}: JSON error at byte {} (line {}, column {}): {}", name_, at, line, column + 1, shortened(why, 200));
  }

 private:
  bool open() {
    if (static_cast<int>(keys_.size()) >= max_depth_) {
      fail("{}: nesting deeper than {} at byte {}", name_, max_depth_, consumed_ - 1);
    }
    keys_.emplace_back();
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  /// The parser has just read a string's closing quote: the opening one is the nearest that no backslash escapes.
  std::size_t string_start() const {
    std::size_t i = consumed_ - 1;
    while (i > 0) {
      --i;
      if (text_[i] != '"') continue;
      std::size_t backslashes = 0;
      while (backslashes < i && text_[i - 1 - backslashes] == '\\') ++backslashes;
      if (backslashes % 2 == 0) break;
    }
    return i;
  }

  std::string_view text_;
  const std::string& name_;
  int max_depth_;
  std::size_t consumed_ = 0;
  std::vector<std::map<std::string, std::size_t>> keys_;  // one per open object or array: where each key stands
};

std::string shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return shortened(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
}

[[noreturn]] void wrong_type(const Json& value, const std::string& where, const char* expected) {
  fail("{} is {}, expected {}", where, shown(value), expected);
}

}  // namespace

void check_json(std::string_view text, const std::string& name, const JsonOptions& options) {
  if (text.starts_with("\xef\xbb\xbf")) fail("{}: begins with a byte order mark; save it as plain UTF-8", name);
  if (const std::size_t bad = invalid_utf8(text); bad != text.npos) fail("{}: invalid UTF-8 at byte {}", name, bad);
  if (const std::size_t nul = text.find('\0'); nul != text.npos) fail("{}: NUL byte at byte {}", name, nul);
  Checker checker(text, name, options.max_depth);
  const CountingIterator begin{text.data(), checker.consumed()}, end{text.data() + text.size(), checker.consumed()};
  Json::sax_parse(begin, end, &checker, Json::input_format_t::json, true, options.allow_comments);
}

Json parse_json(std::string_view text, const std::string& name, const JsonOptions& options) {
  check_json(text, name, options);
  return Json::parse(text.begin(), text.end(), nullptr, true, options.allow_comments);
}

Json read_json(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("{}: cannot be read ({})", file.string(), std::strerror(errno));
  std::stringstream text;
  text << in.rdbuf();
  return parse_json(text.str(), file.string());
}

std::int64_t as_int(const Json& value, const std::string& where, std::int64_t low, std::int64_t high) {
  if (!value.is_number_integer()) wrong_type(value, where, "an integer");
  const bool too_large =
      value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const std::int64_t number = too_large ? high : value.get<std::int64_t>();
  if (too_large || number < low || number > high) fail("{} is {}, must be in {}..{}", where, shown(value), low, high);
  return number;
}

double as_double(const Json& value, const std::string& where) {
  if (!value.is_number()) wrong_type(value, where, "a number");
  return value.get<double>();
}

bool as_bool(const Json& value, const std::string& where) {
  if (!value.is_boolean()) wrong_type(value, where, "true or false");
  return value.get<bool>();
}

const std::string& as_string(const Json& value, const std::string& where) {
  if (!value.is_string()) wrong_type(value, where, "a string");
  return value.get_ref<const std::string&>();
}

const Json& member(const Json& object, const std::string& key, const std::string& name) {
  if (!object.is_object()) wrong_type(object, name, "an object");
  const auto found = object.find(key);
  if (found == object.end()) fail("{}: \"{}\" is missing", name, key);
  return *found;
}

Json number_or_null(std::optional<double> value) { return value && std::isfinite(*value) ? Json(*value) : Json(); }

}  // namespace norma::train
