// Flags as users misspell them, and what the program says of itself.
#include <catch2/catch.hpp>

#include <array>

#include "tests/program.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::Matches;
using Catch::Matchers::StartsWith;

TEST_CASE("--version tells the version, and the commit where it was built from a checkout", "[flags]") {
  const Finished f = run_norma({"--version"});
  CHECK(f.code == 0);
  CHECK_THAT(f.out, Matches("norma [0-9]+\\.[0-9]+\\.[0-9]+ \\(([0-9a-f]{7,}(\\+changes)?|commit unknown)\\)\n"));
}

TEST_CASE("a flag that is misspelt, or called so by other programs, is told with the right one by every verb", "[flags]") {
  for (const char* verb : {"train", "eval", "compare", "inspect", "report", "watch", "twin", "theory", "info", "data", "gradcheck", "replay", "bench"}) {
    const Finished f = run_norma({verb, "--hlep"});
    CAPTURE(verb);
    CHECK(f.code == 2);
    CHECK_THAT(f.err, Equals("norma: unknown flag --hlep (did you mean --help?)\n"));
  }
  for (const auto& [verb, theirs, ours] : {std::array{"train", "--learning-rate", "--lr"}, {"train", "--batchsize", "--batch"}, {"train", "--batch_size", "--batch"},
                                           {"train", "--num-layers", "--depth"}, {"train", "--wd=0.1", "--weight-decay"}, {"train", "--output_dir", "--out"},
                                           {"train", "-lr", "--lr"}, {"train", "-b", "--batch"}, {"train", "--no-flp", "--no-flip"}, {"info", "--hidden_size", "--width"},
                                           {"compare", "--htlm", "--html"}, {"eval", "--json", "--log-format"}, {"inspect", "--num-workers", "--threads"}}) {
    const Finished f = run_norma({verb, theirs, "1"});
    const std::string flag = theirs;
    CHECK(f.code == 2);
    CHECK_THAT(f.err, Equals(fmt::format("norma: unknown flag {} (did you mean {}?)\n", flag.substr(0, flag.find('=')), ours)));
  }
  CHECK_THAT(run_norma({"info", "--learning-rate", "1"}).err, Equals("norma: unknown flag --learning-rate; see --help\n"));  // what means nothing there is not named
}

TEST_CASE("gradcheck names the ops there are, and one that has no derivative", "[flags]") {
  const Finished none = run_norma({"gradcheck", "nosuchop"});
  CHECK(none.code == 2);
  CHECK_THAT(none.err, StartsWith("norma: gradcheck: unknown op \"nosuchop\"; there are all, ") && Contains(", matmul, ") && Contains(", softmax, ") && !Contains("one_hot"));
  CHECK_THAT(run_norma({"gradcheck", "one_hot"}).err, Equals("norma: gradcheck: \"one_hot\" has no derivative\n"));
}
