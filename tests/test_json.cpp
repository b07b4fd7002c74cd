// The strict layer over nlohmann/json: everything that library lets through and we do not, with the exact texts;
// suggestions.
#include <catch2/catch.hpp>
#include <vector>

#include "core/error.h"
#include "core/suggest.h"
#include "core/text.h"
#include "tests/errors.h"
#include "train/json.h"

using namespace norma;
using norma::test::error_of;
using namespace norma::train;

namespace {

std::string parse_error(std::string_view text, JsonOptions options = {}) {
  return error_of([&] { parse_json(text, "config.json", options); });
}

}  // namespace

TEST_CASE("json: values come back as written and in order", "[json]") {
  const Json j = parse_json(R"({"b": [1, -2, 2.5], "a": {"s": "é\n\u0041"}, "t": true, "n": null})", "x");
  CHECK(j.begin().key() == "b");
  CHECK(as_int(j["b"][1], "x") == -2);
  CHECK(as_double(j["b"][2], "x") == 2.5);
  CHECK(as_double(j["b"][0], "x") == 1);
  CHECK(as_string(member(member(j, "a", "x"), "s", "x"), "x") == "é\nA");
  CHECK(as_bool(j["t"], "x"));
}

TEST_CASE("json: what is not strict JSON is refused with its place", "[json]") {
  CHECK(parse_error(R"({"w": 1, "é\"": 2, "w": 3})") == "config.json: key \"w\" appears twice (bytes 1 and 20)");
  CHECK(parse_error(R"({"a\"\\": 1, "a\"\\": 3})") == "config.json: key \"a\"\\\" appears twice (bytes 1 and 13)");
  CHECK(parse_error("{\"a\": {\"k\": 1}, \"b\": {\"k\": 1}}") == "no error");
  CHECK(parse_error("{\"a\": \"\xff\"}") == "config.json: invalid UTF-8 at byte 7");
  CHECK(parse_error("\xef\xbb\xbf{}") == "config.json: begins with a byte order mark; save it as plain UTF-8");
  CHECK(parse_error(std::string_view("{}\0{", 4)) == "config.json: NUL byte at byte 2");
  CHECK_THAT(parse_error("{\"a\": 1,}"),
             Catch::StartsWith("config.json: JSON error at byte 8 (line 1, column 9): syntax error while parsing"));
  CHECK_THAT(parse_error(""), Catch::StartsWith("config.json: JSON error at byte 0 (line 1, column 1): "));
  CHECK_THAT(parse_error("{} {}"), Catch::StartsWith("config.json: JSON error at byte 3 (line 1, column 4): "));
  CHECK_THAT(parse_error("{\n \"a\": 1,\n \"b\": x}"), Catch::StartsWith("config.json: JSON error at byte 17 (line 3, column 7): "));
  CHECK_THAT(parse_error("[1e999]"), Catch::Contains("number overflow"));
  CHECK_THAT(parse_error("[01]"), Catch::StartsWith("config.json: JSON error at byte 2"));
  CHECK_THAT(parse_error("[NaN]"), Catch::StartsWith("config.json: JSON error at byte 1"));
}

TEST_CASE("json: a message is short, and cut between two characters, whatever it quotes", "[json]") {
  for (const char* begin : {"", "x"}) {
    std::string text = begin;
    for (int i = 0; i < 50'000; ++i) text += "é";
    const std::string unclosed = parse_error("[\"" + text), wrong = error_of([&] { as_int(Json(text), "w"); });
    CAPTURE(unclosed, wrong);
    CHECK((unclosed.size() < 300 && unclosed.ends_with("...") && invalid_utf8(unclosed) == std::string::npos));
    CHECK((wrong.size() < 150 && wrong.ends_with("..., expected an integer") && invalid_utf8(wrong) == std::string::npos));
    CHECK(parse_error("{\"" + text + "\": 1, \"" + text + "\": 1}").size() < 1200);
  }
}

TEST_CASE("json: depth is limited before anything is built", "[json]") {
  CHECK(parse_error(std::string(64, '[') + std::string(64, ']')) == "no error");
  CHECK(parse_error(std::string(65, '[') + std::string(65, ']')) == "config.json: nesting deeper than 64 at byte 64");
  CHECK(parse_error(std::string(1'000'000, '[')) == "config.json: nesting deeper than 64 at byte 64");
  CHECK(parse_error("[{\"a\":[1]}]", {.max_depth = 2}) == "config.json: nesting deeper than 2 at byte 6");
}

TEST_CASE("json: comments only where allowed", "[json]") {
  const std::string text = "{ // why\n \"a\": 1 /* two */ }";
  CHECK(as_int(parse_json(text, "config.json", {.allow_comments = true})["a"], "a") == 1);
  CHECK_THAT(parse_error(text), Catch::StartsWith("config.json: JSON error at byte 2"));
  CHECK(parse_error("// \xc3\n{}", {.allow_comments = true}) == "config.json: invalid UTF-8 at byte 3");
}

TEST_CASE("json: integers are exact", "[json]") {
  const Json j = parse_json(
      "[1.0, 1e3, true, 9223372036854775807, 9223372036854775808, -9223372036854775808, \"7\", [1], {}, 99]", "x");
  const auto read = [&](int i) {
    return error_of([&] { as_int(j[static_cast<std::size_t>(i)], "config.json: \"epochs\""); });
  };
  CHECK(read(0) == "config.json: \"epochs\" is 1.0, expected an integer");
  CHECK(read(1) == "config.json: \"epochs\" is 1000.0, expected an integer");
  CHECK(read(2) == "config.json: \"epochs\" is true, expected an integer");
  CHECK(as_int(j[3], "x") == std::numeric_limits<std::int64_t>::max());
  CHECK(read(4) ==
        "config.json: \"epochs\" is 9223372036854775808, must be in -9223372036854775808..9223372036854775807");
  CHECK(as_int(j[5], "x") == std::numeric_limits<std::int64_t>::min());
  CHECK(read(6) == "config.json: \"epochs\" is \"7\", expected an integer");
  CHECK(read(7) == "config.json: \"epochs\" is an array, expected an integer");
  CHECK(read(8) == "config.json: \"epochs\" is an object, expected an integer");
  CHECK(error_of([&] { as_int(j[9], "epochs", 1, 50); }) == "epochs is 99, must be in 1..50");
  CHECK(error_of([&] { as_double(j[2], "lr"); }) == "lr is true, expected a number");
  CHECK(error_of([&] { as_bool(j[9], "flip"); }) == "flip is 99, expected true or false");
  CHECK(error_of([&] { as_string(j[9], "name"); }) == "name is 99, expected a string");
  CHECK(error_of([&] { member(j[9], "a", "config.json"); }) == "config.json is 99, expected an object");
  CHECK(error_of([&] { member(j[8], "a", "config.json"); }) == "config.json: \"a\" is missing");
}

TEST_CASE("suggest: slips of the pen are recognised, other words are not", "[json]") {
  const std::vector<std::string> words = {"train", "eval", "compare", "info", "data", "x"};
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abcd", "acbd") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("ABC", "abc") == 0);
  CHECK(suggest("trian", words) == "train");
  CHECK(suggest("comparee", words) == "compare");
  CHECK(suggest("EVAL", words) == "eval");
  CHECK(suggest("banana", words).empty());
  CHECK(suggest("q", words).empty());  // one letter is as near to any other
  CHECK(suggest(std::string(10'000, 'a'), words).empty());
  CHECK(did_you_mean("dat", words) == " (did you mean \"data\"?)");
}
