// Pages that quote a program quote the one that the tests build and run.
#include <catch2/catch.hpp>
#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/folders.h"
#include "tests/tested_device.h"

namespace {

using namespace norma;

std::string text_of(const std::string& path) {
  std::ifstream file(source_folder() / path);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// All C++ of a page, an empty line between its pieces.
std::string quoted(const std::string& page) {
  const std::string begins = "```cpp\n", ends = "```\n";
  std::string all;
  for (std::size_t at = page.find(begins); at != std::string::npos; at = page.find(begins, at)) {
    const std::size_t from = at + begins.size(), to = page.find(ends, from);
    REQUIRE(to != std::string::npos);
    all += (all.empty() ? "" : "\n") + page.substr(from, to - from);
    at = to;
  }
  return all;
}

/// Without the blanks and the "//" at the ends of its lines.
std::vector<std::string> grammar(const std::string& text) {
  std::vector<std::string> rules;
  std::istringstream lines(text);
  bool begun = false;
  for (std::string line; std::getline(lines, line) && !(begun && line.find(" = ") == line.npos);) {
    const std::size_t from = line.find_first_not_of("/ ");
    if ((begun = begun || (from != line.npos && line.compare(from, 13, "scoring    = ") == 0))) rules.push_back(line.substr(from));
  }
  return rules;
}

}  // namespace

TEST_CASE("the page on attention functions has the parser's grammar", "[docs]") {
  const std::vector<std::string> page = grammar(text_of("docs/attention-functions.md"));
  CHECK(page.size() == 6);
  CHECK(page == grammar(text_of("nn/scoring.cpp")));
}

TEST_CASE("the demo trains both models with the flags it is given", "[docs]") {
  const auto folder = test::fresh_folder("demo"), said = folder / "said", program = folder / "program";
  std::ofstream(program) << "#!/bin/sh\necho \"$*\" >>'" << said.string() << "'\ncase \"$*\" in *--wrong*) exit 2 ;; esac\n";
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  const auto demo = [&](const std::string& args) {
    std::filesystem::remove(said);
    const int status = std::system(("cd '" + folder.string() + "' && '" + (source_folder() / "scripts" / "demo").string() + "' '" + program.string() + "' " + args + " 2>/dev/null").c_str());
    std::vector<std::string> lines;
    std::ifstream file(said);
    for (std::string line; std::getline(file, line);)
      if (line.find("--print-config") == line.npos) lines.push_back(line);
    return std::pair(status, lines);
  };
  for (const auto& [args, out, flags] : {std::array<std::string, 3>{"", "runs/demo", " --seed 1 --log-every 20 "}, {"--seed 2", "runs/demo", " --log-every 20 --seed 2 "},
                                         {"there --seed 2 --no-graph", "there", " --log-every 20 --seed 2 --no-graph "}}) {
    CAPTURE(args);
    std::filesystem::create_directories(folder / out / "x3");
    std::ofstream(folder / out / "x3" / "config.json") << "{}";
    for (const std::string refused : {" --wrong", " --out elsewhere", " --attention=relu", " --resume", " --print-config"}) CHECK(demo(args + refused).first != 0);
    CHECK(std::filesystem::exists(folder / out / "x3"));
    const auto [status, lines] = demo(args);
    CHECK(status == 0);
    CHECK_FALSE(std::filesystem::exists(folder / out / "x3"));
    REQUIRE(lines.size() == 3);
    CHECK(lines[0].ends_with(flags + "--attention softmax --out " + out + "/softmax"));
    CHECK(lines[1].ends_with(flags + "--attention x^3/sqrt(N) --out " + out + "/x3"));
    CHECK(lines[2] == "compare " + out + "/softmax " + out + "/x3 --html " + out + "/compare.html");
  }
}

TEST_CASE("the script that makes a data set leaves out what begins with a dot, as .DS_Store", "[docs]") {
  const std::string page = text_of("docs/own-images.md");
  CHECK(page.find("for f in sorted(c.iterdir()) if not f.name.startswith(\".\")]") != std::string::npos);
  CHECK(page.find("if p.is_dir() and not p.name.startswith(\".\"))") != std::string::npos);
}

TEST_CASE("the page on an equation of one's own quotes its program, whole", "[docs]") {
  CHECK(quoted(text_of("docs/your-equation.md")) == text_of("tests/consumer/your_equation.cpp"));
}

TEST_CASE("the page on a language model quotes its program, whole", "[docs]") {
  CHECK(quoted(text_of("docs/language-model.md")) == text_of("tests/consumer/language_model.cpp"));
}

TEST_CASE("the page on a model of one's own quotes its programs, whole", "[docs]") {
  CHECK(quoted(text_of("docs/your-model.md")) == text_of("tests/consumer/your_model.cpp") + "\n" + text_of("tests/consumer/your_op.cpp"));
}
