// safetensors: what is written comes back; every malformed file is refused with its exact text; every flipped bit and
// every truncation of our files is noticed; a failed write leaves the old file.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>
#include <thread>

#include "core/atomic_file.h"
#include "core/backend.h"
#include "core/crc32c.h"
#include "core/sha256.h"
#include "tests/alarms.h"
#include "tests/errors.h"
#include "tests/folders.h"
#include "train/safetensors.h"

namespace fs = std::filesystem;
using namespace norma;
using norma::test::contents;
using norma::test::error_of;
using norma::test::files_in;
using norma::test::TemporaryFolder;
using namespace norma::train;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string raw(std::string_view header, std::size_t data_bytes) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(std::uint64_t{header.size()} >> (8 * i));
  return out + std::string(header) + std::string(data_bytes, '\1');
}

std::string parse_error(const std::string& file) {
  return error_of([&] { parse_safetensors(bytes_of(file), "m"); });
}

/// The error for one tensor "w" with these fields and so many bytes of data.
std::string tensor_error(const std::string& fields, std::size_t data_bytes = 16) {
  return parse_error(raw("{\"w\":{" + fields + "}}", data_bytes));
}

TensorFile sample() {
  TensorFile file;
  file.tensors.emplace_back("w", from_values({1, 2, 3, 4, 5, 6}, {2, 3}));
  file.tensors.emplace_back("mask", from_values({1, 0, 1}, {3}, {DType::boolean}));
  file.tensors.emplace_back("double", from_values({0.1, -1e300}, {2}, {DType::f64}));
  file.tensors.emplace_back("step", from_values({7}, {}, {DType::i64}));
  file.tensors.emplace_back("none", zeros({0, 5}));
  file.metadata = {{"format", "norma"}, {"state", "{\"norma.digest\":\"\"}"}};
  return file;
}

}  // namespace

TEST_CASE("safetensors: checksums by their published check values", "[safetensors]") {
  CHECK(crc32c(bytes_of("123456789")) == 0xe3069283u);
  CHECK(crc32c(bytes_of(std::string(32, '\0'))) == 0x8a9136aau);
  CHECK(crc32c(bytes_of("56789"), crc32c(bytes_of("1234"))) == 0xe3069283u);
  CHECK(sha256(bytes_of("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256(bytes_of("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256(bytes_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(bytes_of(std::string(1'000'000, 'a'))) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.update(std::string(1000, 'a').data(), static_cast<std::size_t>(i));
  pieces.update(std::string(500'500, 'a').data(), 500'500);
  CHECK(pieces.hex() == sha256(bytes_of(std::string(1'000'000, 'a'))));
}

TEST_CASE("safetensors: every dtype comes back bit for bit", "[safetensors]") {
  const TemporaryFolder dir;
  for (const DType d : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean}) {
    TensorFile file;
    file.tensors.emplace_back("x", from_values({0, 1, 1, 0, 1, 1}, {3, 1, 2}, {d}));
    write_safetensors(dir.path / "x", file);
    const TensorFile back = read_safetensors(dir.path / "x");
    REQUIRE(back.tensors.size() == 1);
    CHECK(back.tensors[0].second.dtype() == d);
    CHECK(back.tensors[0].second.shape() == Shape{3, 1, 2});
    CHECK(back.tensors[0].second.values() == std::vector<double>{0, 1, 1, 0, 1, 1});
    CHECK(back.metadata.empty());
  }
}

TEST_CASE("safetensors: a file of many tensors, its order and its bytes", "[safetensors]") {
  const TemporaryFolder dir;
  write_safetensors(dir.path / "a", sample());
  write_safetensors(dir.path / "b", sample());
  const std::string bytes = contents(dir.path / "a");
  CHECK(bytes == contents(dir.path / "b"));  // deterministic
  CHECK(static_cast<unsigned char>(bytes[0]) % 8 == 0);
  const TensorFile back = read_safetensors(dir.path / "a");
  std::vector<std::string> names;
  for (const auto& [name, tensor] : back.tensors) names.push_back(name);
  CHECK(names == std::vector<std::string>{"double", "step", "w", "none", "mask"});
  CHECK(back.tensors[0].second.values() == std::vector<double>{0.1, -1e300});
  CHECK(back.tensors[1].second.item() == 7);
  CHECK(back.tensors[3].second.shape() == Shape{0, 5});
  CHECK(back.metadata == sample().metadata);
  CHECK(files_in(dir.path) == 2);
}

TEST_CASE("safetensors: a strided tensor is written row-major", "[safetensors]") {
  const TemporaryFolder dir;
  const Tensor x = from_values({1, 2, 3, 4, 5, 6}, {2, 3});
  TensorFile file;
  file.tensors.emplace_back("t", x.with_layout(transpose(x.layout(), 0, 1)));
  write_safetensors(dir.path / "x", file);
  CHECK(read_safetensors(dir.path / "x").tensors[0].second.values() == std::vector<double>{1, 4, 2, 5, 3, 6});
}

TEST_CASE("safetensors: files of other programs are read", "[safetensors]") {
  // Header as the reference implementation writes it, data of the tensors not in the order of their names, spaces as
  // padding.
  const std::string file = raw(
      R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}   )",
      3);
  const TensorFile back = parse_safetensors(bytes_of(file), "m");
  CHECK(back.tensors[0].first == "a");
  CHECK(back.tensors[1].second.values() == std::vector<double>{1, 1});
  CHECK(parse_safetensors(bytes_of(raw("{}", 0)), "m").tensors.empty());
}

TEST_CASE("safetensors: F16 is read as f32, every number of it", "[safetensors]") {
  // Halves written bit by bit, and what IEEE 754 says that they are.
  const auto number = [](unsigned bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    const double size = exponent == 31  ? (fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan(""))
                        : exponent == 0 ? std::ldexp(fraction, -24)
                                        : std::ldexp(1 + fraction / 1024.0, exponent - 15);
    return bits >> 15 != 0 ? -size : size;
  };
  std::string file = raw(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                         R"("w":{"dtype":"F16","shape":[256,256],"data_offsets":[2,131074]}})",
                         2 + 131072);
  for (unsigned bits = 0; bits < 65536; ++bits) {
    file[file.size() - 131072 + 2 * bits] = static_cast<char>(bits);
    file[file.size() - 131072 + 2 * bits + 1] = static_cast<char>(bits >> 8);
  }
  const TensorFile back = parse_safetensors(bytes_of(file), "m");
  CHECK(back.tensors[0].second.values() == std::vector<double>{1, 1});
  const Tensor w = back.tensors[1].second;
  CHECK(w.dtype() == DType::f32);
  CHECK(w.shape() == Shape{256, 256});
  const std::vector<double> values = w.values();
  int wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const double found = values[bits], expected = number(bits);
    wrong += std::isnan(expected) ? !std::isnan(found) : found != expected || std::signbit(found) != std::signbit(expected);
  }
  CHECK(wrong == 0);
  CHECK(number(0x3555) == Approx(1.0 / 3).epsilon(1e-3));
  CHECK(number(0xfbff) == -65504);
}

TEST_CASE("safetensors: lengths", "[safetensors]") {
  CHECK(parse_error("") == "m: 0 bytes, too short for the 8-byte header length");
  CHECK(parse_error("1234567") == "m: 7 bytes, too short for the 8-byte header length");
  CHECK(parse_error(std::string(7, '\0') + "\x80") == "m: header length 9223372036854775808 exceeds 100000000");
  CHECK(parse_error(std::string("\xe8\x03\0\0\0\0\0\0", 8) + std::string(60, ' ')) ==
        "m: header says 1000 bytes, file has 60 after byte 8 (truncated?)");
}

TEST_CASE("safetensors: the header has to be strict JSON", "[safetensors]") {
  CHECK(parse_error(raw("{\"w\":\"aaaaaaaaaa\xff\"}", 0)) == "m: header: invalid UTF-8 at byte 16");
  CHECK_THAT(parse_error(raw("{\"w\" 3}", 0)),
             Catch::StartsWith("m: header: JSON error at byte 5 (line 1, column 6): syntax error while parsing"));
  CHECK(parse_error(raw("[]", 0)) == "m: header: must begin with {");
  CHECK(parse_error(raw(" {}", 0)) == "m: header: must begin with {");
  CHECK(parse_error(raw(std::string_view("{}\0", 3), 0)) == "m: header: NUL byte at byte 2");
  CHECK_THAT(parse_error(raw("", 0)), Catch::StartsWith("m: header: JSON error at byte 0"));
  const std::string w = R"("w":{"dtype":"U8","shape":[],"data_offsets":[0,1]})";
  CHECK(parse_error(raw("{" + w + "," + w + "}", 1)) == "m: header: key \"w\" appears twice (bytes 1 and 52)");
  CHECK(parse_error(raw(R"({"__metadata__":{"a":"1","a":"2"}})", 0)) ==
        "m: header: key \"a\" appears twice (bytes 17 and 25)");
  CHECK(parse_error(raw("{\"w\":" + std::string(100'000, '['), 0)) == "m: header: nesting deeper than 4 at byte 8");
}

TEST_CASE("safetensors: the fields of a tensor", "[safetensors]") {
  const std::string tail = R"(,"data_offsets":[0,16])";
  const auto shape = [&](const std::string& s) { return tensor_error("\"dtype\":\"F32\",\"shape\":" + s + tail); };
  CHECK(shape("[2,2]") == "no error");
  CHECK(shape("[2.5]") == "m: tensor \"w\": shape[0] = 2.5 is not an unsigned integer");
  CHECK(shape("[4,-1]") == "m: tensor \"w\": shape[1] = -1 is not an unsigned integer");
  CHECK(shape("[1e3]") == "m: tensor \"w\": shape[0] = 1e3 is not an unsigned integer");
  CHECK(shape("[true]") == "m: tensor \"w\": shape[0] = true is not an unsigned integer");
  CHECK(shape("[null]") == "m: tensor \"w\": shape[0] = null is not an unsigned integer");
  CHECK(shape("[\"4\"]") == "m: tensor \"w\": shape[0] = \"4\" is not an unsigned integer");
  CHECK(shape("[[4]]") == "m: tensor \"w\": shape[0] = a list is not an unsigned integer");
  CHECK(shape("[18446744073709551616]") ==
        "m: tensor \"w\": shape[0] = 18446744073709551616 is not an unsigned integer");
  CHECK(shape("[2,18446744073709551614]") == "m: tensor \"w\": shape [2,18446744073709551614] overflows");
  CHECK(shape("[0,4294967296,4294967296]") == "m: tensor \"w\": shape [0,4294967296,4294967296] overflows");
  CHECK(shape("[1,1,1,1,1,1,1,1,4]") == "m: tensor \"w\": more than 8 numbers in shape");
  CHECK(shape("4") == "m: tensor \"w\": shape is 4, expected a list of integers");
  CHECK(shape("[3]") == "m: tensor \"w\": [3] F32 needs 12 bytes, offsets give 16");
  CHECK(tensor_error(R"("dtype":"F32","shape":[2,2],"data_offsets":[0,4])", 4) ==
        "m: tensor \"w\": [2,2] F32 needs 16 bytes, offsets give 4");
  CHECK(tensor_error(R"("dtype":"F7","shape":[],"data_offsets":[0,4])") ==
        "m: tensor \"w\": dtype \"F7\" unknown; known are F32, F64, F16, BF16, I64, I32, U8, BOOL; convert the tensor "
        "where the file was written, in PyTorch with t.float() or t.int()");
  CHECK(tensor_error(R"("dtype":"F16","shape":[2,2],"data_offsets":[0,16])") ==
        "m: tensor \"w\": [2,2] F16 needs 8 bytes, offsets give 16");
  CHECK(tensor_error(R"("dtype":7,"shape":[],"data_offsets":[0,4])") ==
        "m: tensor \"w\": dtype is 7, expected a string");
  CHECK(tensor_error(R"("dtype":["F32"],"shape":[],"data_offsets":[0,4])") ==
        "m: tensor \"w\": dtype is a list, expected a string");
  CHECK(tensor_error(R"("shape":[],"data_offsets":[0,4])") == "m: tensor \"w\": \"dtype\" is missing");
  CHECK(tensor_error(R"("dtype":"F32","data_offsets":[0,4])") == "m: tensor \"w\": \"shape\" is missing");
  CHECK(tensor_error(R"("dtype":"F32","shape":[])") == "m: tensor \"w\": \"data_offsets\" is missing");
  CHECK(tensor_error(R"("dtype":"F32","shape":[],"data_offsets":[4])") ==
        "m: tensor \"w\": data_offsets holds 1 numbers, expected 2");
  CHECK(tensor_error(R"("dtype":"F32","shape":[],"data_offsets":[8,4])") ==
        "m: tensor \"w\": data_offsets [8,4] run backwards");
  CHECK(tensor_error(R"("dtype":"F32","shape":[],"data_offsets":[0,4],"extra":1)") ==
        "m: tensor \"w\": unknown key \"extra\"");
  CHECK(tensor_error(R"("dtype":"BOOL","shape":[2],"data_offsets":[0,2])", 2) == "no error");
  CHECK(parse_error(raw("{\"w\":3}", 0)) == "m: tensor \"w\": is 3, expected an object");
  CHECK(parse_error(raw("{\"w\\u001b\":[]}", 0)) == "m: tensor \"w\\x1b\": is a list, expected an object");
  CHECK(parse_error(raw("{\"__metadata__\":3}", 0)) == "m: header: __metadata__ is 3, expected an object");
  CHECK(parse_error(raw("{\"__metadata__\":{\"a\":3}}", 0)) == "m: header: __metadata__ \"a\" is 3, expected a string");
  CHECK(parse_error(raw("{\"" + std::string(1025, 'n') + "\":3}", 0)) ==
        "m: header: a name of 1025 bytes, at most 1024 are allowed");
  std::string bad_bool = raw(R"({"w":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})", 3);
  bad_bool[bad_bool.size() - 1] = 2;
  CHECK(parse_error(bad_bool) == "m: tensor \"w\": element 2 of BOOL is 2, not 0 or 1");
}

TEST_CASE("safetensors: every byte belongs to exactly one tensor", "[safetensors]") {
  const auto two = [](int b0, int b1, std::size_t bytes) {
    return parse_error(raw(
        fmt::format(
            R"({{"a":{{"dtype":"U8","shape":[20],"data_offsets":[0,20]}},"b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
            b1 - b0, b0, b1),
        bytes));
  };
  CHECK(two(20, 24, 24) == "no error");
  CHECK(two(16, 24, 24) == "m: tensor \"b\": data starts at 16 but \"a\" ends at 20 (overlap)");
  CHECK(two(24, 28, 28) == "m: 4 bytes between \"a\" and \"b\" belong to no tensor");
  CHECK(two(20, 24, 22) == "m: tensor \"b\": data ends at 24, but the file has 22 bytes of data (truncated?)");
  CHECK(two(20, 24, 58) == "m: 34 bytes after the last tensor");
  CHECK(parse_error(raw("{}", 5)) == "m: 5 bytes after the last tensor");
  CHECK(tensor_error(R"("dtype":"U8","shape":[2],"data_offsets":[3,5])", 5) ==
        "m: 3 bytes before \"w\" belong to no tensor");
}

TEST_CASE("safetensors: every flipped bit and every truncation is noticed", "[safetensors]") {
  const TemporaryFolder dir;
  write_safetensors(dir.path / "x", sample());
  const std::string good = contents(dir.path / "x");
  REQUIRE(parse_error(good) == "no error");
  std::string bad = good;
  std::size_t missed = 0;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    bad[bit / 8] = static_cast<char>(good[bit / 8] ^ (1 << (bit % 8)));
    if (parse_error(bad) == "no error") ++missed;
    bad[bit / 8] = good[bit / 8];
  }
  CHECK(missed == 0);
  for (std::size_t size = 0; size < good.size(); ++size) {
    if (parse_error(good.substr(0, size)) == "no error") ++missed;
  }
  CHECK(missed == 0);
  CHECK(parse_error(good + '\0') == "m: 1 bytes after the last tensor");

  TensorFile empty_file;  // nothing but the digest itself
  write_safetensors(dir.path / "x", empty_file);
  const std::string bare = contents(dir.path / "x");
  for (std::size_t bit = 0; bit < bare.size() * 8; ++bit) {
    bad = bare;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    if (parse_error(bad) == "no error") ++missed;
  }
  CHECK(missed == 0);
}

TEST_CASE("safetensors: damage is described", "[safetensors]") {
  const TemporaryFolder dir;
  TensorFile file;
  file.tensors.emplace_back("w", from_values({1}, {1}));
  write_safetensors(dir.path / "x", file);
  std::string bytes = contents(dir.path / "x");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  CHECK_THAT(
      parse_error(bytes),
      Catch::Matches("m: tensor \"w\": checksum [0-9a-f]{8} differs from stored [0-9a-f]{8}; the file is damaged"));
  bytes = contents(dir.path / "x");
  bytes[bytes.find("[1]") + 1] = '2';
  CHECK(parse_error(bytes) == "m: tensor \"w\": [2] F32 needs 8 bytes, offsets give 4");
  bytes = contents(dir.path / "x");
  bytes[bytes.find("\"w\"") + 1] = 'v';
  CHECK_THAT(parse_error(bytes),
             Catch::Matches("m: header: digest [0-9a-f]{64} differs from stored \"[0-9a-f]{64}\"; the file is damaged, "
                            "or another program has changed it"));
  bytes = contents(dir.path / "x");
  bytes[bytes.find("crc32c")] = 'k';
  CHECK(parse_error(bytes) ==
        "m: header: checksums are incomplete; the file is damaged, or another program has changed it");
}

TEST_CASE("safetensors: what cannot be written is refused before a file is touched", "[safetensors]") {
  const TemporaryFolder dir;
  const auto write = [&](const std::string& name, const std::string& key) {
    TensorFile file;
    file.tensors.emplace_back(name, zeros({1}));
    file.metadata[key] = "";
    return error_of([&] { write_safetensors(dir.path / "x", file); });
  };
  const std::string x = (dir.path / "x").string();
  CHECK(write("__metadata__", "k") == x + ": \"__metadata__\" cannot name a tensor");
  CHECK(write("\xff", "k") == x + ": tensor name \"\\xff\" is not UTF-8");
  CHECK(write("w", "norma.digest") == x + ": \"norma.digest\" cannot be a metadata key");
  TensorFile twice;
  twice.tensors.emplace_back("w", zeros({1}));
  twice.tensors.emplace_back("w", zeros({1}));
  CHECK(error_of([&] { write_safetensors(dir.path / "x", twice); }) == x + ": two tensors are named \"w\"");
  CHECK(files_in(dir.path) == 0);
}

TEST_CASE("safetensors: files that are not there", "[safetensors]") {
  const TemporaryFolder dir;
  CHECK(error_of([&] { read_safetensors(dir.path / "x"); }) ==
        (dir.path / "x").string() + ": cannot be opened, no such file or directory");
  CHECK(error_of([&] { read_safetensors(dir.path); }) == dir.path.string() + ": is not a file");
  CHECK(error_of([&] { write_safetensors(dir.path / "no" / "x", sample()); }) ==
        (dir.path / "no" / "x").string() + ": cannot be created, no such file or directory");
}

TEST_CASE("safetensors: a write that fails half way leaves the old file and nothing else", "[safetensors]") {
  // A limit on the size of files gives what a full disk gives: first a short write, then an error.
  const TemporaryFolder dir;
  const fs::path path = dir.path / "x";
  write_safetensors(path, sample());
  const std::string old = contents(path);
  TensorFile large;
  large.tensors.emplace_back("w", zeros({100'000}));

  struct rlimit limit {};
  getrlimit(RLIMIT_FSIZE, &limit);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small = {65536, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { write_safetensors(path, large); });
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, old_handler);

  CHECK(contents(path) == old);
  CHECK(files_in(dir.path) == 1);
  CHECK_NOTHROW(write_safetensors(path, large));
  CHECK(read_safetensors(path).tensors[0].second.numel() == 100'000);
  CHECK_THAT(error, Catch::StartsWith(fmt::format("{}: need {} bytes, 65536 written, file too large (", path.string(),
                                                  fs::file_size(path))));
  CHECK_THAT(error, Catch::EndsWith(" bytes free in " + dir.path.string() + "); the file was not changed"));
}

TEST_CASE("any text, written atomically", "[safetensors]") {
  const TemporaryFolder dir;
  write_atomically(dir.path / "a.json", "old");
  write_atomically(dir.path / "a.json", "new");
  CHECK(contents(dir.path / "a.json") == "new");
  {
    AtomicFile unfinished(dir.path / "a.json", 5);
    unfinished.write(bytes_of("never"));
    CHECK(files_in(dir.path) == 2);
  }
  CHECK(contents(dir.path / "a.json") == "new");
  CHECK(files_in(dir.path) == 1);
  for (int i = 0; i < 5000; ++i)  // left by a process that had the same number
    std::ofstream(dir.path / fmt::format(".b.json.{}-{}.tmp", ::getpid(), i)) << "half";
  write_atomically(dir.path / "b.json", "new");
  CHECK(contents(dir.path / "b.json") == "new");
  for (const auto& entry : fs::directory_iterator(dir.path))
    if (entry.path().filename() != "a.json") fs::remove(entry.path());
  fs::create_directory(dir.path / "d");
  CHECK_THAT(error_of([&] { write_atomically(dir.path / "d", "x"); }),
             Catch::StartsWith((dir.path / "d").string() + ": is a folder; name a file"));
  REQUIRE(mkfifo((dir.path / "pipe").c_str(), 0600) == 0);
  CHECK(error_of([&] { write_atomically(dir.path / "pipe", "x"); }) == (dir.path / "pipe").string() + ": is a device or a pipe; name a file");
  CHECK(fs::is_fifo(dir.path / "pipe"));
  CHECK(files_in(dir.path) == 3);
}

TEST_CASE("a signal while a file is opened is no error", "[safetensors]") {
  const TemporaryFolder folder;
  const fs::path pipe = folder.path / "pipe";  // opening waits until somebody writes into it
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::thread writer([&] {
    test::Alarms::spare_this_thread();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::ofstream{pipe};
  });
  std::string told;
  {
    const test::Alarms alarms;
    told = error_of([&] { read_safetensors(pipe); });
  }
  if (told.find("cannot be opened") != std::string::npos) std::ifstream{pipe};  // the writer waits for somebody
  writer.join();
  CHECK(told == pipe.string() + ": is not a file");
}
