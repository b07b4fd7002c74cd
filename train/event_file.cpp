// Framing: TensorFlow's core/lib/io/record_writer.cc. Messages: event.proto and summary.proto, of which four fields are
// needed.
#include "train/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/atomic_file.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "core/folder.h"

namespace norma::train {
namespace fs = std::filesystem;
namespace {

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

template <class T>
void put_fixed(std::string& out, T value) {  // little-endian
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  for (std::size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(bits >> (8 * i) & 255));
}

template <class T>
T get_fixed(std::string_view text) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    bits |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i);
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

void put_varint(std::string& out, std::uint64_t v) {
  for (; v >= 128; v >>= 7) out.push_back(static_cast<char>((v & 127) | 128));
  out.push_back(static_cast<char>(v));
}

// Keys of a protobuf field are its number * 8 + its wire type: 0 varint, 1 eight bytes, 2 a length and bytes, 5 four
// bytes.
constexpr char event_wall_time = 1 * 8 + 1, event_step = 2 * 8 + 0, event_file_version = 3 * 8 + 2,
               event_summary = 5 * 8 + 2, event_session_log = 7 * 8 + 2, summary_value = 1 * 8 + 2,
               value_tag = 1 * 8 + 2, value_simple = 2 * 8 + 5, session_status = 1 * 8 + 0;
constexpr char session_start = 1;

void put_bytes(std::string& out, char key, std::string_view bytes) {
  out.push_back(key);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event(double time) {
  std::string out(1, event_wall_time);
  put_fixed(out, time);
  return out;
}

/// A checksum of data that hold checksums is weak, so they are stored masked.
std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

/// When each event of a file was written, as far as its records are whole.
std::vector<double> wall_times(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream stream;
  stream << in.rdbuf();
  const std::string text = stream.str();
  std::vector<double> times;
  for (std::string_view rest = text; rest.size() >= 12;) {
    const auto length = get_fixed<std::uint64_t>(rest);
    if (length < 9 || length > rest.size() || rest.size() - length < 16) break;
    const std::string_view data = rest.substr(12, length);
    if (get_fixed<std::uint32_t>(rest.substr(12 + length)) != masked_crc(data) || data[0] != event_wall_time) break;
    times.push_back(get_fixed<double>(data.substr(1)));
    rest.remove_prefix(16 + length);
  }
  return times;
}

double value_of(const Json& number) {
  const double v = number.is_number() ? number.get<double>() : NAN;
  return std::isfinite(v) ? v : NAN;
}

/// The number that follows "blocks." in a place, else the position in the list.
std::size_t layer_of(const Json& layer, std::size_t position) {
  const std::string place = layer.value("place", "");
  const std::size_t dot = place.find('.');
  if (dot == std::string::npos || dot + 1 >= place.size() || place[dot + 1] < '0' || place[dot + 1] > '9')
    return position;
  return static_cast<std::size_t>(std::strtoull(place.c_str() + dot + 1, nullptr, 10));
}

constexpr std::size_t records_before_rows = 2;  // the version, and the start of the session
constexpr std::string_view name_begins = "events.out.tfevents.", name_ends = ".norma";

/// An event as a TFRecord.
std::string framed(const std::string& event) {
  std::string record;
  put_fixed(record, static_cast<std::uint64_t>(event.size()));
  put_fixed(record, masked_crc(record));
  record += event;
  put_fixed(record, masked_crc(event));
  return record;
}

/// Of one line of metrics.jsonl.
std::string event_of(const Json& row, double time) {
  std::string summary, value;
  for (const Scalar& s : scalars(row)) {
    value.clear();
    put_bytes(value, value_tag, s.tag);
    value.push_back(value_simple);
    put_fixed(value, static_cast<float>(s.value));
    put_bytes(summary, summary_value, value);
  }
  std::string text = event(time);
  text.push_back(event_step);
  put_varint(text, static_cast<std::uint64_t>(row.at("step").get<std::int64_t>()));
  put_bytes(text, event_summary, summary);
  return text;
}

}  // namespace

bool is_event_file(const std::string& name) {
  return name.size() > name_begins.size() + name_ends.size() && name.starts_with(name_begins) &&
         name.ends_with(name_ends);
}

std::vector<Scalar> scalars(const Json& row) {
  std::vector<Scalar> out;
  for (const auto& [key, value] : row.items()) {
    if (key == "step" || key == "epoch") continue;
    if (key == "attention") {
      for (std::size_t l = 0; l < value.size(); ++l)
        for (const auto& [field, heads] : value[l].items())
          for (std::size_t h = 0; heads.is_array() && h < heads.size(); ++h)
            out.push_back({fmt::format("attn/L{:02}/H{:02}/{}", layer_of(value[l], l), h, field), value_of(heads[h])});
    } else if (value.is_object()) {  // "parameters", and a twin's gaps by place
      for (const auto& [name, measures] : value.items())
        for (const auto& [field, number] : measures.items())
          out.push_back(
              {fmt::format("{}/{}/{}", key == "parameters" ? "param" : "twin/" + key, name, field), value_of(number)});
    } else if (key.starts_with("twin_") && value.is_array()) {
      for (std::size_t side = 0; side < value.size(); ++side)
        out.push_back({fmt::format("twin/{}/{}", key.substr(5), side), value_of(value[side])});
    } else if (value.is_number() || value.is_null()) {
      out.push_back({key.starts_with("test_") ? "test/" + key.substr(5) : "train/" + key, value_of(value)});
    }
  }
  return out;
}

EventFile::EventFile(const fs::path& run, const std::vector<Json>& rows) {
  std::vector<fs::path> before;
  for (const auto& entry : entries_of(run))
    if (is_event_file(entry.path().filename().string())) before.push_back(entry.path());
  std::sort(before.begin(), before.end());
  const std::vector<double> times = before.empty() ? std::vector<double>{} : wall_times(before.back());

  const double start = now();
  std::string version = event(start), session = event(start);
  put_bytes(version, event_file_version, "brain.Event:2");
  // A TensorBoard that is open on the file before this one drops what it has read there.
  put_bytes(session, event_session_log, std::string{session_status, session_start});
  std::string text = framed(version) + framed(session);
  for (std::size_t i = 0; i < rows.size(); ++i)
    text += framed(event_of(rows[i], records_before_rows + i < times.size() ? times[records_before_rows + i] : start));

  path_ = run / fmt::format("{}{:010}{}", name_begins, static_cast<long long>(start), name_ends);
  write_atomically(path_, text);
  std::error_code error;
  for (const fs::path& file : before)
    if (file != path_ && !fs::remove(file, error) && error)
      fail("{}: holds steps twice now, and cannot be removed ({})", file.string(), error_text(error.value()));
  fd_ = opened(path_, O_WRONLY | O_APPEND);
  if (fd_ < 0) fail("{}: cannot be opened ({})", path_.string(), error_text(errno));
}

EventFile::~EventFile() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFile::append(const Json& row) {
  const std::string record = framed(event_of(row, now()));
  const Written done = write_all(fd_, std::as_bytes(std::span(record)));
  if (done.error != 0)
    fail("{}: {} of {} bytes written ({})", path_.string(), done.bytes, record.size(), error_text(done.error));
}

}  // namespace norma::train
