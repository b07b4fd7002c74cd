// Pages that quote a program quote the one that the tests build and run.
#include <catch2/catch.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
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

/// The pieces of C++ of a page.
std::vector<std::string> pieces(const std::string& page) {
  const std::string begins = "```cpp\n", ends = "```\n";
  std::vector<std::string> all;
  for (std::size_t at = page.find(begins); at != std::string::npos; at = page.find(begins, at)) {
    const std::size_t from = at + begins.size(), to = page.find(ends, from);
    REQUIRE(to != std::string::npos);
    all.push_back(page.substr(from, to - from));
    at = to;
  }
  return all;
}

/// Together, an empty line between them.
std::string quoted(const std::string& page) {
  std::string all;
  for (const std::string& piece : pieces(page)) all += (all.empty() ? "" : "\n") + piece;
  return all;
}

/// What a page links to, and the places on it that others can link to: its headings, as GitHub names them.
struct Links {
  std::vector<std::string> to;
  std::set<std::string> places;
};
Links links(const std::string& page) {
  Links found;
  bool code = false;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) code = !code;
    if (code) continue;
    if (line.starts_with('#')) {
      std::string place;
      for (const char c : line.substr(line.find(' ') + 1)) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == ' ') place += '-';
        if (byte >= 0x80 || std::isalnum(byte) || c == '-' || c == '_') place += static_cast<char>(std::tolower(byte));
      }
      found.places.insert(place);
    }
    for (std::size_t at = line.find("]("); at != std::string::npos; at = line.find("](", at + 1)) {
      const std::string to = line.substr(at + 2, line.find(')', at) - at - 2);
      if (to.find(' ') == std::string::npos && !to.starts_with("http")) found.to.push_back(to);  // else code, or not ours
    }
  }
  return found;
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

TEST_CASE("links lead to pages and headings that there are, and from README to every page", "[docs]") {
  namespace fs = std::filesystem;
  std::vector<std::string> pages = {"README.md"};
  for (std::size_t i = 0; i < pages.size(); ++i) {
    CAPTURE(pages[i]);
    const std::string page = text_of(pages[i]);
    for (const std::string& to : links(page).to) {
      CAPTURE(to);
      const std::size_t hash = to.find('#');
      const fs::path file = hash == 0 ? fs::path(pages[i]) : (fs::path(pages[i]).parent_path() / to.substr(0, hash)).lexically_normal();
      REQUIRE(fs::exists(source_folder() / file));
      if (file.extension() != ".md") continue;
      if (hash != std::string::npos) CHECK(links(text_of(file.string())).places.count(to.substr(hash + 1)) == 1);
      if (std::find(pages.begin(), pages.end(), file.string()) == pages.end()) pages.push_back(file.string());
    }
  }
  for (const auto& file : fs::directory_iterator(source_folder() / "docs"))
    if (file.path().extension() == ".md") CHECK(std::count(pages.begin(), pages.end(), "docs/" + file.path().filename().string()) == 1);
}

TEST_CASE("the page on adding an op quotes the op as it is", "[docs]") {
  const std::vector<std::string> quotes = pieces(text_of("docs/add-an-op.md"));
  REQUIRE(quotes.size() == 6);  // the first leaves out what other ops are in the list
  for (const auto& [quote, file] : {std::pair{1, "backends/common/functors.h"}, {2, "backends/cpu/kernels/elementwise.cpp"},
                                    {3, "autograd/ops_elementwise.cpp"}, {4, "backends/cpu/kernels/elementwise.cpp"}, {5, "checks/op_table_elementwise.cpp"}}) {
    CAPTURE(file);
    CHECK(text_of(file).find(quotes[static_cast<std::size_t>(quote)]) != std::string::npos);
  }
}

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
