// Pages that quote a program quote the one that the tests build and run.
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <string>

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

}  // namespace

TEST_CASE("the script that makes a data set leaves out what begins with a dot, as .DS_Store", "[docs]") {
  const std::string page = text_of("docs/own-images.md");
  CHECK(page.find("for f in sorted(c.iterdir()) if not f.name.startswith(\".\")]") != std::string::npos);
  CHECK(page.find("if p.is_dir() and not p.name.startswith(\".\"))") != std::string::npos);
}

TEST_CASE("the page on a model of one's own quotes its programs, whole", "[docs]") {
  CHECK(quoted(text_of("docs/your-model.md")) == text_of("tests/consumer/your_model.cpp") + "\n" + text_of("tests/consumer/your_op.cpp"));
}
