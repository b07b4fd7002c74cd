// TensorBoard event files, decoded here by other code than wrote them: a bit-by-bit CRC, and a reader of any protobuf message.
#include <catch2/catch.hpp>

#include <cmath>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <unistd.h>

#include "tests/program.h"
#include "train/event_file.h"

using namespace norma;
using namespace norma::test;
using train::Json;

namespace {

/// CRC-32C one bit at a time, and the mask of TFRecords.
std::uint32_t slow_masked_crc(const std::string& bytes) {
  std::uint32_t crc = ~0u;
  for (char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class T>
T number_at(const std::string& text, std::size_t at) {
  REQUIRE(at + sizeof(T) <= text.size());
  T value;
  std::memcpy(&value, text.data() + at, sizeof(T));
  return value;
}

struct Field {
  std::uint64_t number, varint = 0;
  std::string bytes;  // of the other wire types
};

std::vector<Field> fields(const std::string& message) {
  std::vector<Field> out;
  std::size_t at = 0;
  auto varint = [&] {
    std::uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(at < message.size());
      const auto byte = static_cast<unsigned char>(message[at++]);
      v |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return v;
    }
  };
  auto take = [&](std::uint64_t count) {
    REQUIRE(count <= message.size() - at);
    at += count;
    return message.substr(at - count, count);
  };
  while (at < message.size()) {
    const std::uint64_t key = varint();
    Field f{key >> 3, 0, ""};
    switch (key & 7) {
      case 0: f.varint = varint(); break;
      case 1: f.bytes = take(8); break;
      case 2: f.bytes = take(varint()); break;
      case 5: f.bytes = take(4); break;
      default: FAIL("wire type " << (key & 7));
    }
    out.push_back(f);
  }
  return out;
}

struct Event {
  double wall_time = 0;
  std::uint64_t step = 0;
  std::string version, session;
  std::vector<std::pair<std::string, float>> values;
};

std::vector<Event> events(const std::filesystem::path& file) {
  const std::string text = contents(file);
  std::vector<Event> out;
  for (std::size_t at = 0; at < text.size();) {
    const auto length = number_at<std::uint64_t>(text, at);
    REQUIRE(number_at<std::uint32_t>(text, at + 8) == slow_masked_crc(text.substr(at, 8)));
    REQUIRE(at + 16 + length <= text.size());
    const std::string data = text.substr(at + 12, length);
    REQUIRE(number_at<std::uint32_t>(text, at + 12 + length) == slow_masked_crc(data));
    at += 16 + length;
    Event e;
    for (const Field& f : fields(data)) {
      if (f.number == 1) e.wall_time = number_at<double>(f.bytes, 0);
      if (f.number == 2) e.step = f.varint;
      if (f.number == 3) e.version = f.bytes;
      if (f.number == 7) e.session = f.bytes;
      if (f.number != 5) continue;
      for (const Field& value : fields(f.bytes)) {
        REQUIRE(value.number == 1);
        const std::vector<Field> parts = fields(value.bytes);
        REQUIRE((parts.size() == 2 && parts[0].number == 1 && parts[1].number == 2));
        e.values.emplace_back(parts[0].bytes, number_at<float>(parts[1].bytes, 0));
      }
    }
    out.push_back(e);
  }
  return out;
}

std::vector<std::filesystem::path> event_files(const std::filesystem::path& run) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(run))
    if (train::is_event_file(entry.path().filename().string())) out.push_back(entry.path());
  return out;
}

std::vector<Event> events_of(const std::filesystem::path& run) {
  const auto files = event_files(run);
  REQUIRE(files.size() == 1);
  return events(files[0]);
}

Json row(Index step) {
  return {{"step", step}, {"epoch", 0.5}, {"loss", 2.5}, {"lr", 1e-3}, {"skipped", 0},
          {"attention", {{{"place", "blocks.3.attn.stats"}, {"fro", {1.5, 2.5}}, {"grad_a", {0.25, nullptr}}}}},
          {"parameters", {{"blocks.3.attn.qkv.weight", {{"weight", 8.0}, {"grad", 0.5}, {"update", 1e-3}}}}}};
}

/// The rows' events without the two that begin a file.
void check_same(const std::vector<Event>& found, const std::vector<Json>& rows) {
  REQUIRE(found.size() == rows.size() + 2);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Event& e = found[i + 2];
    CHECK(e.step == rows[i]["step"].get<std::uint64_t>());
    const std::vector<train::Scalar> expected = train::scalars(rows[i]);
    REQUIRE(e.values.size() == expected.size());
    for (std::size_t k = 0; k < expected.size(); ++k) {
      CHECK(e.values[k].first == expected[k].tag);
      const float value = static_cast<float>(expected[k].value);
      CHECK((e.values[k].second == value || (std::isnan(e.values[k].second) && std::isnan(value))));
    }
  }
}

std::vector<Json> metrics(const std::filesystem::path& run) {
  std::vector<Json> rows;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line) && !in.eof();)  // a last line without its end is being written
    rows.push_back(Json::parse(line));
  return rows;
}

}  // namespace

TEST_CASE("the checksum used here is the one of the published vectors", "[event_file]") {
  // RFC 3720 B.4: 32 bytes of zeros give 8a9136aa.
  CHECK(slow_masked_crc(std::string(32, '\0')) == ((0x8a9136aau >> 15) | (0x8a9136aau << 17)) + 0xa282ead8u);
}

TEST_CASE("a line of metrics.jsonl becomes curves with TensorBoard's names", "[event_file]") {
  std::map<std::string, double> found;
  for (const train::Scalar& s : train::scalars(row(7))) CHECK(found.emplace(s.tag, s.value).second);
  CHECK(std::isnan(found.at("attn/L03/H01/grad_a")));
  found.erase("attn/L03/H01/grad_a");
  CHECK(found == std::map<std::string, double>{{"train/loss", 2.5}, {"train/lr", 1e-3}, {"train/skipped", 0}, {"attn/L03/H00/fro", 1.5},
                                               {"attn/L03/H01/fro", 2.5}, {"attn/L03/H00/grad_a", 0.25},
                                               {"param/blocks.3.attn.qkv.weight/weight", 8}, {"param/blocks.3.attn.qkv.weight/grad", 0.5},
                                               {"param/blocks.3.attn.qkv.weight/update", 1e-3}});
  const auto test = train::scalars({{"step", 9}, {"epoch", 1.0}, {"test_loss", 0.5}, {"test_accuracy", 0.75}});
  REQUIRE(test.size() == 2);
  CHECK(test[0].tag == "test/loss");
  CHECK(test[1].tag == "test/accuracy");
  CHECK(test[1].value == 0.75);

  found.clear();  // a twin's
  for (const train::Scalar& s : train::scalars({{"step", 4}, {"twin_loss", {2.5, 2.25}}, {"weights", {{"blocks.0", {{"distance", 0.5}, {"cosine", 0.75}}}}}}))
    CHECK(found.emplace(s.tag, s.value).second);
  CHECK(found == std::map<std::string, double>{{"twin/loss/0", 2.5}, {"twin/loss/1", 2.25}, {"twin/weights/blocks.0/distance", 0.5}, {"twin/weights/blocks.0/cosine", 0.75}});
  CHECK(train::scalars({{"step", 4}, {"twin_loss", 3}}).size() == 1);  // of another program
}

TEST_CASE("an event file has a version, a start and one event a line, each with right checksums", "[event_file]") {
  const auto run = fresh_folder("events");
  std::vector<Json> rows = {row(0), row(300), row(70000)};  // steps of one, two and three bytes
  rows.push_back({{"step", 70000}, {"epoch", 1.0}, {"test_loss", INFINITY}, {"test_accuracy", 0.5}});
  {
    train::EventFile file(run, {});
    for (const Json& r : rows) file.append(r);
  }
  const std::vector<Event> found = events_of(run);
  check_same(found, rows);
  CHECK(found[0].version == "brain.Event:2");
  CHECK(found[1].session == std::string("\x08\x01"));  // status START
  CHECK(std::isnan(found[5].values[0].second));
  for (std::size_t i = 1; i < found.size(); ++i) CHECK(found[i].wall_time >= found[i - 1].wall_time);
  CHECK(std::abs(found[0].wall_time - static_cast<double>(std::time(nullptr))) < 60);
}

TEST_CASE("a new event file takes the place of the old, keeps its times, and survives one that is damaged", "[event_file]") {
  const auto run = fresh_folder("events-again");
  std::vector<Json> rows = {row(0), row(5), row(10)};
  {
    train::EventFile file(run, {});
    for (const Json& r : rows) file.append(r);
  }
  const std::vector<Event> before = events_of(run);
  std::string bytes = contents(event_files(run)[0]);
  std::size_t times_kept = 2;
  SECTION("whole") {}
  SECTION("cut") {
    bytes.resize(bytes.size() - 3);  // within row 10, which is dropped below
  }
  SECTION("a flipped bit in the event of row 5") {
    bytes[bytes.size() * 2 / 3 - 40] ^= 1;
    times_kept = 1;
  }
  SECTION("not an event file at all") {
    bytes = "nothing of the kind, but long enough to hold a header";
    times_kept = 0;
  }
  std::ofstream(event_files(run)[0], std::ios::binary) << bytes;
  std::ofstream(run / "events.out.tfevents.0000000001.norma") << "x";
  std::ofstream(run / "events.out.tfevents.1700000000.host.1.0") << "of another program";
  ::usleep(20000);
  rows.pop_back();  // metrics.jsonl was cut back to two lines
  { train::EventFile file(run, rows); }
  const std::vector<Event> after = events_of(run);
  CHECK(contents(run / "events.out.tfevents.1700000000.host.1.0") == "of another program");
  check_same(after, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK((after[i + 2].wall_time == before[i + 2].wall_time) == (i < times_kept));
}

TEST_CASE("an event file that was cut anywhere is gone on with", "[event_file]") {
  const auto run = fresh_folder("events-cut");
  { train::EventFile(run, {}).append(row(0)); }
  const std::filesystem::path file = event_files(run)[0];
  const std::string whole = contents(file);
  for (std::size_t length = 1; length < whole.size(); length += 7) {
    for (const auto& old : event_files(run)) std::filesystem::remove(old);
    std::ofstream(file, std::ios::binary) << whole.substr(0, length);
    CAPTURE(length);
    { train::EventFile again(run, {row(0)}); }
    check_same(events_of(run), {row(0)});
  }
}

TEST_CASE("a killed and resumed run has each step once in its event file", "[event_file]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("events-run");
  const std::vector<std::string> args = small_run(data, runs / "a", {"--epochs", "4", "--checkpoint-every", "5", "--log-every", "3", "--resume"});
  bool killed = false;
  {
    Program p(args);
    while (metrics(runs / "a").size() < 8) ::usleep(100);
    p.signal(SIGKILL);
    killed = p.wait().code == 128 + SIGKILL;
  }
  CHECK(killed);
  const Finished f = run_norma(args);
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const std::vector<Json> rows = metrics(runs / "a");
  CHECK(rows.size() == 24);  // of 56 steps every third and the last, and four evaluations
  check_same(events_of(runs / "a"), rows);
}

TEST_CASE("a disk that is full while an event is written is told once, and going on repairs the file", "[event_file]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("events-full") / "a";
  const std::vector<std::string> args = {"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14",
                                         "--batch", "8", "--epochs", "1", "--log-every", "2", "--out", out.string(), "--resume"};
  const Finished f = Program(args, ".", 13000).wait();  // between the lengths of metrics.jsonl and of the event file
  CAPTURE(f.err);
  CHECK(f.code == 1);  // for the checkpoint at its end
  CHECK_THAT(f.err, Catch::Matchers::Contains("events.out.tfevents.") &&
                        Catch::Matchers::Contains("bytes written (file too large); the run goes on without an event file; --resume makes it whole again\n"));
  CHECK(f.err.find("events.out.tfevents.") == f.err.rfind("events.out.tfevents."));
  CHECK(metrics(out).size() == 6);  // steps 0, 2, 4, 6, 7 and an evaluation
  REQUIRE(run_norma(args).code == 0);
  check_same(events_of(out), metrics(out));
}
