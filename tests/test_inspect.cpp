// norma inspect, and the pictures it reads.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>

#include "datasets/pnm.h"
#include "inspect/heads_page.h"
#include "tests/errors.h"
#include "tests/program.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

std::string file_with(const std::string& name, const std::string& bytes) {
  const auto path = fresh_folder("picture-" + name) / name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

std::string error_of_file(const std::string& file) {
  return error_of([&] { datasets::read_pnm(file); });
}

}  // namespace

TEST_CASE("pictures: grey and colour, comments in the header, and what is wrong with the others", "[inspect]") {
  const auto grey = datasets::read_pnm(file_with("grey.pgm", "P5\n# made by hand\n3 2\n255\nabcdef"));
  CHECK((grey.height == 2 && grey.width == 3 && grey.channels == 1));
  CHECK(grey.pixels == std::vector<std::uint8_t>{'a', 'b', 'c', 'd', 'e', 'f'});
  const auto colour = datasets::read_pnm(file_with("colour.ppm", "P6 2 1 255\nRGBrgb"));
  CHECK(colour.pixels == std::vector<std::uint8_t>{'R', 'r', 'G', 'g', 'B', 'b'});  // planes

  const std::string png = file_with("a.png", "\x89PNG\r\n"), deep = file_with("deep.pgm", "P5 1 1 65535\nab");
  const std::string empty = file_with("empty.pgm", "P5 0 4 255\n"), cut = file_with("cut.pgm", "P5 4 4 255\nabc");
  CHECK(error_of_file(png) == png + ": is not a binary PGM or PPM picture (P5 or P6); convert it to one first");
  CHECK(error_of_file(deep) == deep + ": its samples go to 65535; only 8 bits (255) are read");
  CHECK(error_of_file(empty) == empty + ": its header gives 0 x 4 pixels; from 1 to 16384 a side are possible");
  CHECK(error_of_file(cut) == cut + ": is cut short: 3 of 16 bytes of samples");
  const std::string promises = file_with("promises.ppm", "P6 16384 16384 255\nabc");
  CHECK(error_of_file(promises) == promises + ": is cut short: 3 of 805306368 bytes of samples");
  CHECK(error_of_file(".") == ".: is a folder; name a PGM or PPM file");
  CHECK(error_of_file("absent.pgm") == "absent.pgm: cannot be read; is the path right?");
}

TEST_CASE("pictures are averaged to the model's size", "[inspect]") {
  const datasets::Picture four{4, 4, 1, {0, 2, 10, 10, 4, 6, 10, 10, 1, 1, 1, 1, 1, 1, 1, 1}};
  CHECK(datasets::fitted(four, 2, 1).pixels == std::vector<std::uint8_t>{3, 10, 1, 1});
  CHECK(datasets::fitted(four, 4, 1).pixels == four.pixels);
  CHECK(datasets::fitted({1, 1, 1, {7}}, 3, 3).pixels == std::vector<std::uint8_t>(27, 7));
  CHECK(datasets::fitted({1, 1, 3, {255, 0, 0}}, 1, 1).pixels == std::vector<std::uint8_t>{76});  // luma of red
  const datasets::Picture even{28, 28, 1, std::vector<std::uint8_t>(784, 9)};
  for (Index side : {1, 3, 5, 27, 29}) CHECK(datasets::fitted(even, side, 1).pixels == std::vector<std::uint8_t>(static_cast<std::size_t>(side * side), 9));

  const auto wrong = [](const datasets::Picture& picture, Index side, Index channels) { return error_of([&] { datasets::fitted(picture, side, channels); }); };
  CHECK(wrong({4, 4, 1, {1, 2}}, 2, 1) == "fitted: the picture holds 2 bytes of pixels, but [1, 4, 4] needs 16");
  CHECK(wrong({2, 1, 3, {1, 2}}, 2, 1) == "fitted: the picture holds 2 bytes of pixels, but [3, 2, 1] needs 6");
  CHECK(wrong({1, 1, 4, {1, 2, 3, 4}}, 1, 3) == "fitted: from 4 channels to 3; there are 1 (grey) and 3 (colour)");
  CHECK(wrong({1, 1, 1, {1}}, 1, 5) == "fitted: from 1 channels to 5; there are 1 (grey) and 3 (colour)");
  CHECK(wrong({0, 1, 1, {}}, 1, 1) == "fitted: from 0x1 to 1x1 pixels; a side has at least 1");
  CHECK(wrong({1, 1, 1, {1}}, 0, 1) == "fitted: from 1x1 to 0x0 pixels; a side has at least 1");
}

TEST_CASE("a page of heads holds an image of its sizes", "[inspect]") {
  inspect::HeadsPage page;
  page.side = 2, page.channels = 3, page.patch = 1, page.pixels.assign(12, 7);
  CHECK_THAT(inspect::make_heads_page(page), Contains("BwcHBwcHBwcHBwcH"));
  page.pixels.pop_back();
  CHECK(error_of([&] { inspect::make_heads_page(page); }) == "heads page: the image holds 11 bytes of pixels, but [3, 2, 2] needs 12");
}

TEST_CASE("inspect shows every head of a run", "[inspect]") {
  const auto data = tiny_data(64, 20);
  const auto out = fresh_folder("inspect") / "run";
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "2", "--heads", "2", "--patch", "14", "--batch", "8",
                     "--epochs", "1", "--out", out.string()}).code == 0);
  const std::string html = (out / "inspect.html").string();
  const Finished f = run_norma({"inspect", out.string(), "--data-dir", data.string(), "--index", "3", "--html", html, "--log-format", "json"});
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto j = nlohmann::json::parse(f.out);
  REQUIRE(j["heads"].size() == 4);
  for (const auto& head : j["heads"]) {  // softmax: rows sum to one, so that the norm lies between 1 and sqrt(N)
    CHECK(head["row_sum"].get<double>() == Approx(1).epsilon(1e-5));
    CHECK(head["fro"].get<double>() >= 1 - 1e-5);
    CHECK(head["fro"].get<double>() <= std::sqrt(5.0));
  }
  CHECK(f.err == "attention matrices formed for watching: 2 in 2 places, 400 B; each for its call only\n");
  CHECK_THAT(contents(html), Contains("blocks.1.attn") && !Contains("/*DATA*/null") && !Contains("/*STYLE*/"));

  CHECK(run_norma({"inspect", out.string(), "--data-dir", data.string(), "--html", html, "--image", file_with("shoe.pgm", "P5 2 2 255\nabcd")}).code == 0);
  const Finished lost = run_norma({"inspect", out.string(), "--data-dir", data.string(), "--html", (out / "absent" / "inspect.html").string()});
  CHECK(lost.code == 1);
  CHECK_THAT(lost.out, Contains("blocks.1.attn") && !Contains("page:"));
  CHECK_THAT(lost.err, Contains("inspect.html: cannot be created"));
  const Finished beyond = run_norma({"inspect", out.string(), "--data-dir", data.string(), "--index", "20"});
  CHECK(beyond.code == 2);
  CHECK_THAT(beyond.err, Equals("norma: --index: there is no test image 20; they go from 0 to 19\n"));
  CHECK_THAT(run_norma({"inspect"}).err, Equals("norma: inspect: name one run folder, as in norma inspect runs/a\n"));
  CHECK_THAT(run_norma({"inspect", "no-such-run"}).err, Equals("norma: run folder no-such-run: there is no such folder\n"));
}
