// What is shown while a verb works: on a terminal, on one that cannot draw a line again, and elsewhere; and how it ends.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "tests/program.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;

namespace {
std::vector<std::string> arguments(const std::string& verb, const std::filesystem::path& data, const std::filesystem::path& out) {
  return {verb, "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--epochs", "2", "--out", out.string()};
}
}  // namespace

TEST_CASE("a line is drawn again only where a terminal can do so", "[progress]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("terminal");
  const auto train = [&](const std::string& name, const std::string& term) {
    return on_terminal(arguments("train", data, runs / name), term);
  };
  CHECK_THAT(train("xterm", "xterm"), Contains("\r\033[K") && Contains("█"));
  for (const std::string term : {"dumb", ""}) {
    const std::string out = train(term + "-term", term);
    CAPTURE(out);
    CHECK(out.find_first_of("\r\033") == std::string::npos);
    CHECK_THAT(out, Contains("step 1/16 ") && Contains("step 16/16 "));
    CHECK(std::count(out.begin(), out.end(), '\n') < 6);
  }
}

TEST_CASE("a line says that its numbers are of training, and fits the terminal", "[progress]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("terminal-columns");
  const auto lines = [&](const std::string& verb, unsigned short columns) {
    const std::string out = on_terminal(arguments(verb, data, runs / (verb + std::to_string(columns))), "xterm", "", columns);
    std::vector<std::string> found;
    const std::string begin = "\r\033[K";
    for (std::size_t at = out.find(begin); at != std::string::npos; at = out.find(begin, at + 1)) {
      const std::size_t from = at + begin.size();
      const std::string line = out.substr(from, out.find_first_of("\r\n", from) - from);
      if (line.find("step ") != std::string::npos) found.push_back(line);
    }
    REQUIRE(!found.empty());
    return found;
  };
  const auto width = [](const std::string& line) { return std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }); };
  const std::vector<std::string> wide = lines("train", 0), narrow = lines("train", 80), bar = lines("train", 110), twin = lines("twin", 0);
  CHECK_THAT(wide.back(), Contains("█ epoch 2/2  step 16/16  training loss ") && Contains(", accuracy ") && Contains(" % (smoothed)  ") && Contains(" images/s  0 s left"));
  CHECK_THAT(twin.back(), Contains("step 16/16  training loss ") && Contains(" % (softmax, this batch)  "));
  for (const std::string& line : narrow) {
    CAPTURE(line);
    CHECK(width(line) < 80);
    CHECK_THAT(line, Contains("training loss ") && Contains("(smoothed)") && Contains(" left") && !Contains("images/s"));
  }
  for (const std::string& line : bar) {
    CAPTURE(line);
    CHECK(width(line) < 110);
    CHECK_THAT(line, Contains("█") || Contains("░"));
  }
}

TEST_CASE("norma theory tells how far it is", "[progress]") {
  const std::string out = on_terminal({"theory", "--tokens", "400000", "--width", "8", "--attention", "softmax"}, "xterm", " left");
  CAPTURE(out);
  CHECK_THAT(out, Contains("\r\033[Ksoftmax, N = 400000: ") && Contains(" % of all is done, "));
  CHECK(on_terminal({"theory", "--tokens", "64", "--attention", "softmax"}, "xterm").empty());
}

TEST_CASE("norma theory on a million tokens begins at once, and Ctrl-C ends it", "[progress]") {
  Program p({"theory", "--tokens", "1000000", "--attention", "softmax"});
  while (p.out().find("‖A‖_F") == std::string::npos) ::usleep(1000);
  p.signal(SIGINT);
  CHECK(p.wait().code == 130);
}

TEST_CASE("the one object of --log-format json comes however a run ends", "[progress]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("endings");
  const auto args = [&](const char* verb, const std::filesystem::path& out, const std::vector<std::string>& more) {
    return with(with(with({verb, "vit"}, small_model(data)), {"--log-format", "json", "--out", out.string()}), more);
  };
  const auto result = [&](const Finished& f, int code) {
    CAPTURE(f.err);
    REQUIRE(f.code == code);
    return nlohmann::json::parse(f.out);
  };
  auto r = result(run_norma(args("train", runs / "good", {"--epochs", "1"})), 0);
  CHECK(r["ending"] == "finished");
  CHECK(r["message"] == "");
  CHECK(r["step"] == 4);
  CHECK(r["test_accuracy"].is_number());

  const std::vector<std::string> bad = {"--epochs", "10", "--attention", "1e20x^8", "--init-std", "1e4"};
  r = result(run_norma(args("train", runs / "bad", bad)), 3);
  CHECK(r["run"] == (runs / "bad").string());
  CHECK(r["ending"] == "diverged");
  CHECK(r["message"] == "diverged: steps 0 to 9 were skipped; a checkpoint is in " + (runs / "bad").string() + ". Repeat the command with --resume --anomaly to learn which operation it was");
  CHECK(r["step"] == 10);
  CHECK(r["seconds"].is_number());
  CHECK(!r.contains("test_accuracy"));
  r = result(run_norma(args("train", runs / "anomaly", with(bad, {"--anomaly"}))), 3);
  CHECK(r["ending"] == "diverged");
  CHECK(r["step"] == 0);
  CHECK_THAT(r["message"].get<std::string>(), Contains("look again with: norma replay " + (runs / "anomaly" / "anomaly-000000000.json").string()));
  r = result(run_norma(args("twin", runs / "twin", with(bad, {"--other", "softmax"}))), 3);
  CHECK(r["ending"] == "diverged");
  CHECK(r["step"] == 10);
  CHECK(r["other"] == "softmax");

  for (const char* verb : {"train", "twin"}) {
    const auto out = runs / (std::string("stopped-") + verb);
    Program p(args(verb, out, {"--epochs", "100000"}));
    while (!std::filesystem::exists(out / "metrics.jsonl")) ::usleep(1000);
    p.signal(SIGINT);
    r = result(p.wait(), 130);
    CHECK(r["ending"] == "interrupted");
    CHECK(r["step"] > 0);
    CHECK_THAT(r["message"].get<std::string>(), Catch::StartsWith("interrupted; "));
  }
}
