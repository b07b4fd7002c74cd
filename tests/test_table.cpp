// Tables that fit the terminal.
#include <catch2/catch.hpp>

#include "core/table.h"

using namespace norma;

namespace {

Table some_runs() {
  Table table{{{.least = 14, .words = true}, {}, {.least = 8, .gap = 2}}, {{"run", "block 0", "block 1"}, {"runs/demo/softmax", "1 → 2", "3 → 4"}, {"runs/demo/x3", "5 → 6"}}};
  return table;
}

}  // namespace

TEST_CASE("a table that fits is printed as it is", "[table]") {
  CHECK(shown(some_runs(), 37) ==
        "run                 block 0   block 1\n"
        "runs/demo/softmax     1 → 2     3 → 4\n"
        "runs/demo/x3          5 → 6\n");
  CHECK((fits(some_runs(), 37) && !fits(some_runs(), 36)));
  CHECK(shown(some_runs(), 36) ==  // what a column has beyond its texts goes first
        "run                 block 0  block 1\n"
        "runs/demo/softmax     1 → 2    3 → 4\n"
        "runs/demo/x3          5 → 6\n");
}

TEST_CASE("a table that is a little too wide has its words in several lines", "[table]") {
  CHECK(shown(some_runs(), 35) ==
        "run                block 0  block 1\n"
        "runs/demo/           1 → 2    3 → 4\n"
        "softmax\n"
        "runs/demo/x3         5 → 6\n");
}

TEST_CASE("a table that is much too wide is turned, and its columns stand below each other", "[table]") {
  CHECK(!fits_in_rows(some_runs(), 34));
  CHECK(shown(some_runs(), 34) ==
        "run       runs/demo/softmax\n"
        "block 0               1 → 2\n"
        "block 1               3 → 4\n"
        "\n"
        "run       runs/demo/x3\n"
        "block 0          5 → 6\n"
        "block 1\n");
  Table many{{{.words = true}}, {{"run"}, {"a run of a long name"}, {"b"}, {"c"}, {"d"}}};
  for (std::size_t block = 0; block < 8; ++block) {
    many.columns.push_back({});
    for (std::size_t row = 0; row < many.rows.size(); ++row) many.rows[row].push_back(row == 0 ? "block " + std::to_string(block) : "1.00 → 2.00");
  }
  const std::string told = shown(many, 60);  // two beside two, not three beside one
  CHECK(told.find("run       a run of a long name") == 0);
  CHECK(told.find("\n\nrun                 c             d\n") != std::string::npos);
}
