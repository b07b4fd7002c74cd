// Reading is two passes of SAX: check_json (UTF-8, depth, duplicates), then the fields. A DOM is never built.
#include "train/safetensors_header.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "core/text.h"
#include "train/json.h"

namespace norma::train::safetensors {

namespace {

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr std::array dtype_names = {DTypeName{DType::f32, "F32"},     DTypeName{DType::f64, "F64"},
                                    DTypeName{DType::bf16, "BF16"},   DTypeName{DType::i64, "I64"},
                                    DTypeName{DType::i32, "I32"},     DTypeName{DType::u8, "U8"},
                                    DTypeName{DType::boolean, "BOOL"}};

std::string_view dtype_name(DType dtype) {
  return std::find_if(dtype_names.begin(), dtype_names.end(), [&](auto& d) { return d.dtype == dtype; })->name;
}

/// A tensor as the header describes it, before anything of it is believed.
struct RawEntry {
  std::string name, dtype;
  std::vector<std::uint64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Knows where it is by depth: 1 names, 2 the fields of a tensor or the metadata, 3 a list of integers.
class Reader : public nlohmann::json_sax<Json> {
 public:
  Reader(const std::string& file) : file_(file) {}
  std::vector<RawEntry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return other(value == 0 ? "-0" : std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return other(text); }
  bool binary(binary_t&) override { return other("binary"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) return other(std::to_string(value));
    auto& list = this->list();
    if (list.size() >= static_cast<std::size_t>(max_rank)) {
      fail("{}: tensor {}: more than {} numbers in {}", file_, in_quotes(entries.back().name), max_rank, field_);
    }
    list.push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      metadata.emplace(field_, value);
    } else if (depth_ == 2 && field_ == "dtype") {
      entries.back().dtype = value;
      entries.back().has_dtype = true;
    } else {
      return other(in_quotes(value));
    }
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ >= 2) return other("an object");
    ++depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || field_ == "dtype") return other("a list");
    ++depth_;
    (field_ == "shape" ? entries.back().has_shape : entries.back().has_offsets) = true;
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) finish(entries.back());
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& key) override {
    if (key.size() > max_name)
      fail("{}: header: a name of {} bytes, at most {} are allowed", file_, key.size(), max_name);
    if (depth_ == 1) {
      in_metadata_ = key == "__metadata__";
      if (in_metadata_) return true;
      if (entries.size() >= max_tensors) fail("{}: header: more than {} tensors", file_, max_tensors);
      entries.emplace_back().name = key;
    } else {
      field_ = key;
      if (!in_metadata_ && key != "dtype" && key != "shape" && key != "data_offsets") {
        fail("{}: tensor {}: unknown key {}", file_, in_quotes(entries.back().name), in_quotes(key));
      }
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: header: JSON error at byte {}", file_, position);
  }

 private:
  std::vector<std::uint64_t>& list() { return field_ == "shape" ? entries.back().shape : entries.back().offsets; }
  /// A value of a kind that has no place here.
  [[noreturn]] bool other(const std::string& value) {
    if (in_metadata_) {
      if (depth_ < 2) fail("{}: header: __metadata__ is {}, expected an object", file_, value);
      fail("{}: header: __metadata__ {} is {}, expected a string", file_, in_quotes(field_), value);
    }
    const std::string tensor = fmt::format("{}: tensor {}", file_, in_quotes(entries.back().name));
    if (depth_ < 2) fail("{}: is {}, expected an object", tensor, value);
    if (depth_ == 3) fail("{}: {}[{}] = {} is not an unsigned integer", tensor, field_, list().size(), value);
    fail("{}: {} is {}, expected {}", tensor, field_, value, field_ == "dtype" ? "a string" : "a list of integers");
  }
  void finish(const RawEntry& e) {
    const char* missing = !e.has_dtype ? "dtype" : !e.has_shape ? "shape" : !e.has_offsets ? "data_offsets" : nullptr;
    if (missing != nullptr) fail("{}: tensor {}: \"{}\" is missing", file_, in_quotes(e.name), missing);
    if (e.offsets.size() != 2)
      fail("{}: tensor {}: data_offsets holds {} numbers, expected 2", file_, in_quotes(e.name), e.offsets.size());
  }

  const std::string& file_;
  int depth_ = 0;
  bool in_metadata_ = false;
  std::string field_;
};

std::string list_text(const std::vector<std::uint64_t>& numbers) {
  std::string text = "[";
  for (std::size_t i = 0; i < numbers.size(); ++i) text += fmt::format("{}{}", i > 0 ? "," : "", numbers[i]);
  return text + "]";
}

/// Dtype, shape and size of one tensor, in checked arithmetic.
Entry checked(const RawEntry& raw, const std::string& file) {
  const std::string tensor = fmt::format("{}: tensor {}", file, in_quotes(raw.name));
  const auto known = std::find_if(dtype_names.begin(), dtype_names.end(), [&](auto& d) { return d.name == raw.dtype; });
  const bool half = raw.dtype == "F16";
  if (known == dtype_names.end() && !half) {
    fail(
        "{}: dtype {} unknown; known are F32, F64, F16, BF16, I64, I32, U8, BOOL; convert the tensor where the file "
        "was written, in PyTorch with t.float() or t.int()",
        tensor, in_quotes(raw.dtype));
  }
  Entry entry{raw.name, half ? DType::f32 : known->dtype, {}, raw.offsets[0], raw.offsets[1], half};
  // The product without the zeros has to fit as well: strides are computed from it.
  std::uint64_t bytes = size_of(entry.dtype);
  bool overflows = false, empty = false;
  for (const std::uint64_t size : raw.shape) {
    empty = empty || size == 0;
    overflows =
        overflows || (size != 0 && __builtin_mul_overflow(bytes, size, &bytes)) || bytes > (std::uint64_t{1} << 62);
  }
  if (overflows) fail("{}: shape {} overflows", tensor, list_text(raw.shape));
  for (const std::uint64_t size : raw.shape) entry.shape.append(static_cast<Index>(size));
  if (empty) bytes = 0;
  if (half) bytes /= 2;
  if (entry.begin > entry.end) fail("{}: data_offsets {} run backwards", tensor, list_text(raw.offsets));
  if (entry.end - entry.begin != bytes) {
    fail("{}: {} {} needs {} bytes, offsets give {}", tensor, list_text(raw.shape), raw.dtype, bytes,
         entry.end - entry.begin);
  }
  return entry;
}

/// Every byte after the header belongs to exactly one tensor.
void check_layout(const std::vector<Entry>& entries, std::uint64_t data_bytes, const std::string& file) {
  std::uint64_t at = 0;
  std::string before;
  for (const Entry& e : entries) {
    if (e.begin < at)
      fail("{}: tensor {}: data starts at {} but {} ends at {} (overlap)", file, in_quotes(e.name), e.begin, before,
           at);
    if (e.begin > at && before.empty())
      fail("{}: {} bytes before {} belong to no tensor", file, e.begin, in_quotes(e.name));
    if (e.begin > at)
      fail("{}: {} bytes between {} and {} belong to no tensor", file, e.begin - at, before, in_quotes(e.name));
    if (e.end > data_bytes) {
      fail("{}: tensor {}: data ends at {}, but the file has {} bytes of data (truncated?)", file, in_quotes(e.name),
           e.end, data_bytes);
    }
    at = e.end;
    before = in_quotes(e.name);
  }
  if (at < data_bytes) fail("{}: {} bytes after the last tensor", file, data_bytes - at);
}

}  // namespace

Header parse_header(std::string_view text, std::uint64_t data_bytes, const std::string& name) {
  check_json(text, name + ": header", {.max_depth = 4});
  if (!text.starts_with('{')) fail("{}: header: must begin with {{", name);
  Reader reader(name);
  Json::sax_parse(text.begin(), text.end(), &reader);
  Header header{{}, std::move(reader.metadata)};
  header.entries.reserve(reader.entries.size());
  for (const RawEntry& raw : reader.entries) header.entries.push_back(checked(raw, name));
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const Entry& a, const Entry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  check_layout(header.entries, data_bytes, name);
  return header;
}

std::string print_header(const Header& header) {
  const auto text = [](const std::string& s) { return Json(s).dump(); };
  std::string out = "{";
  const auto separate = [&] {
    if (out.back() != '{') out += ',';
  };
  if (!header.metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : header.metadata) {
      separate();
      out += text(key) + ':' + text(value);
    }
    out += '}';
  }
  for (const Entry& e : header.entries) {
    const std::vector<std::uint64_t> shape(e.shape.begin(), e.shape.end());
    separate();
    out += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", text(e.name),
                       dtype_name(e.dtype), list_text(shape), e.begin, e.end);
  }
  out += '}';
  out.append((8 - out.size() % 8) % 8, ' ');
  return out;
}

}  // namespace norma::train::safetensors
