// Flags as users misspell them, and what the program says of itself.
#include <catch2/catch.hpp>

#include "tests/program.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Matches;

TEST_CASE("--version tells the version, and the commit where it was built from a checkout", "[flags]") {
  const Finished f = run_norma({"--version"});
  CHECK(f.code == 0);
  CHECK_THAT(f.out, Matches("norma [0-9]+\\.[0-9]+\\.[0-9]+ \\(([0-9a-f]{7,}(\\+changes)?|commit unknown)\\)\n"));
}
