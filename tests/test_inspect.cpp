// norma inspect, and the pictures it reads.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "autograd/ops.h"
#include "datasets/pnm.h"
#include "inspect/heads_page.h"
#include "tests/errors.h"
#include "tests/program.h"
#include "tests/written_run.h"
#include "train/safetensors.h"

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

/// Of base64, as a page holds numbers.
std::vector<float> floats_of(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned held = 0;
  int bits = 0;
  for (char c : text) {
    const std::size_t digit = digits.find(c);
    if (digit == std::string::npos) break;
    held = held << 6 | static_cast<unsigned>(digit), bits += 6;
    if (bits >= 8) bits -= 8, bytes += static_cast<char>(held >> bits & 255);
  }
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
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
  CHECK(error_of_file(png) ==
        png + ": is not a binary PGM or PPM picture (P5 or P6); convert it to one first, as in: convert " + png + " -auto-orient -depth 8 " + png.substr(0, png.size() - 3) + "ppm");
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
  CHECK(datasets::fitted({1, 3, 3, {255, 0, 0, 0, 255, 0, 0, 0, 255}}, 3, 1).pixels == std::vector<std::uint8_t>{76, 150, 29, 76, 150, 29, 76, 150, 29});  // luma of red, green and blue
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

TEST_CASE("a picture that is not square is not distorted: its border goes on around it", "[inspect]") {
  const datasets::Picture wide{2, 4, 1, {1, 2, 3, 4, 5, 6, 7, 8}};  // a mean of 4.5
  const datasets::Picture square = datasets::squared(wide);
  CHECK((square.height == 4 && square.width == 4 && square.channels == 1));
  CHECK(square.pixels == std::vector<std::uint8_t>{5, 5, 5, 5, 1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 5, 5});
  const datasets::Picture high{3, 1, 3, {10, 10, 10, 20, 20, 20, 7, 8, 9}};
  CHECK(datasets::squared(high).pixels == std::vector<std::uint8_t>{10, 10, 10, 10, 10, 10, 10, 10, 10, 20, 20, 20, 20, 20, 20, 20, 20, 20, 8, 7, 8, 8, 8, 8, 8, 9, 8});
  CHECK(datasets::squared({2, 2, 1, {1, 2, 3, 4}}).pixels == std::vector<std::uint8_t>{1, 2, 3, 4});
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
    for (const auto& [name, field] : inspect::head_stats) CHECK(head.contains(name));
  }
  CHECK(f.err == "attention matrices formed for watching: 2 in 2 places, 400 B; each for its call only\n");
  CHECK_THAT(contents(html), Contains("blocks.1.attn") && !Contains("/*DATA*/null") && !Contains("/*STYLE*/"));

  CHECK(run_norma({"inspect", out.string(), "--data-dir", data.string(), "--html", html, "--image", file_with("shoe.pgm", "P5 2 2 255\nabcd")}).code == 0);
  const auto heads = [&](const std::string& picture, const std::vector<std::string>& more = {}) {
    return nlohmann::json::parse(run_norma(with({"inspect", out.string(), "--data-dir", data.string(), "--html", html, "--log-format", "json", "--image", file_with("a.pgm", picture)}, more)).out)["heads"];
  };
  CHECK(heads(std::string("P5 2 2 255\n\0\377\200\20", 15), {"--invert"}) == heads(std::string("P5 2 2 255\n\377\0\177\357", 15)));
  CHECK(heads("P5 2 1 255\nab") == heads("P5 2 2 255\nabbb"));  // padded below with the border's mean, 97.5
  CHECK_THAT(run_norma({"inspect", out.string(), "--invert"}).err, Equals("norma: --invert: is for a picture of your own; name it with --image\n"));
  const Finished lost = run_norma({"inspect", out.string(), "--data-dir", data.string(), "--html", (out / "absent" / "inspect.html").string()});
  CHECK(lost.code == 1);
  CHECK_THAT(lost.out, Contains("blocks.1.attn") && !Contains("page:"));
  CHECK_THAT(lost.err, Contains("inspect.html: cannot be created"));
  const Finished beyond = run_norma({"inspect", out.string(), "--data-dir", data.string(), "--index", "20"});
  CHECK(beyond.code == 2);
  CHECK_THAT(beyond.err, Equals("norma: --index: there is no test image 20; they go from 0 to 19\n"));
  CHECK((j["weights"] == "trained" && j["step"] == 8));
  CHECK_THAT(run_norma({"inspect"}).err, Equals("norma: inspect: name one run folder, as in norma inspect runs/a\n"));
  CHECK_THAT(run_norma({"inspect", "no-such-run"}).err, Equals("norma: run folder no-such-run: there is no such folder\n"));
}

TEST_CASE("images that are not square are trained on and inspected, in the middle of a square", "[inspect]") {
  const auto out = fresh_folder("inspect-oblong") / "run";
  for (const auto& [height, width] : {std::pair<Index, Index>{28, 20}, {20, 28}}) {
    const auto data = tiny_data(64, 20, height, width);
    std::filesystem::remove_all(out);
    const Finished trained = run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8",
                                        "--epochs", "1", "--out", out.string()});
    CAPTURE(height, width, trained.err);
    REQUIRE(trained.code == 0);
    for (const std::vector<std::string>& image : {std::vector<std::string>{"--index", "1"}, {"--image", file_with("oblong.pgm", "P5 2 3 255\nabcdef")}}) {
      const Finished f = run_norma(with({"inspect", out.string(), "--data-dir", data.string()}, image));
      CAPTURE(f.err);
      CHECK(f.code == 0);
    }
  }
}

TEST_CASE("inspect and theory measure the matrix that is shown, also of a run in linear form", "[inspect]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("inspect-linear") / "run";
  const std::vector<std::string> run = {out.string(), "--data-dir", data.string(), "--log-format", "json"};
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "2", "--batch", "8", "--steps", "2",
                     "--pad", "0", "--init-std", "0.5", "--attention", "x^2/N", "--attention-form", "linear", "--out", out.string()}).code == 0);
  const Finished f = run_norma(with({"inspect"}, run));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto heads = nlohmann::json::parse(f.out)["heads"];
  const auto layer = data_of(contents(out / "inspect-0.html"))["layers"][0];
  const std::size_t n = layer["tokens"], entries = n * n;
  REQUIRE((n == 197 && heads.size() == 2));
  const std::vector<float> a = floats_of(layer["weights"]);
  REQUIRE(a.size() == 2 * entries);
  for (std::size_t h = 0; h < 2; ++h) {
    double squares = 0, least = a[h * entries], largest = least;
    for (std::size_t i = h * entries; i < (h + 1) * entries; ++i)
      squares += static_cast<double>(a[i]) * a[i], least = std::min<double>(least, a[i]), largest = std::max<double>(largest, a[i]);
    CHECK(heads[h]["fro"].get<double>() == Approx(std::sqrt(squares)).epsilon(1e-4));
    CHECK(heads[h]["max"].get<double>() == Approx(largest).epsilon(1e-4));
    CHECK(heads[h]["min"].get<double>() == Approx(least).epsilon(1e-4).margin(1e-9));
  }
  // Of that one image: what theory measures is the same norm.
  const auto theory = nlohmann::json::parse(run_norma(with({"theory"}, with(run, {"--images", "1"}))).out);
  for (std::size_t h = 0; h < 2; ++h) CHECK(theory["heads"][h]["fro"].get<double>() == Approx(heads[h]["fro"].get<double>()).epsilon(1e-6));
}

TEST_CASE("inspect and eval take the weights a run started from, and any of its checkpoints", "[inspect]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("inspect-initial") / "run";
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "4",
                     "--checkpoint-every", "2", "--out", out.string()}).code == 0);
  const std::string second = (out / "checkpoint-000000002.safetensors").string();
  const auto told = [&](const char* verb, const std::string& run, const std::vector<std::string>& more = {}) {
    const Finished f = run_norma(with({verb, run, "--data-dir", data.string(), "--log-format", "json"}, more));
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return nlohmann::json::parse(f.out);
  };
  const auto first = told("eval", out.string(), {"--initial"}), middle = told("eval", second), last = told("eval", out.string());
  CHECK((first["step"] == 0 && middle["step"] == 2 && last["step"] == 4));
  CHECK((first["test_loss"] != middle["test_loss"] && middle["test_loss"] != last["test_loss"]));
  CHECK(told("eval", (out / "checkpoint-000000004.safetensors").string())["test_loss"] == last["test_loss"]);
  const auto initial = told("inspect", out.string(), {"--initial"});
  CHECK((initial["step"] == 0 && initial["weights"] == "initial" && initial["html"] == (out / "inspect-0-initial.html").string()));
  CHECK(initial["heads"] != told("inspect", out.string())["heads"]);
  CHECK(told("inspect", second)["html"] == (out / "inspect-0-step-2.html").string());
  CHECK(told("theory", second)["step"] == 2);

  const Finished both = run_norma({"eval", second, "--initial"});
  CHECK(both.code == 2);
  CHECK_THAT(both.err, Equals("norma: --initial: " + second + " is a checkpoint, of trained weights; name the run's folder\n"));
}

TEST_CASE("numbers of a matrix that are not finite are told as none", "[inspect]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("inspect-not-finite") / "run";
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "2", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "1",
                     "--out", out.string()}).code == 0);
  const auto checkpoint = out / "checkpoint-000000001.safetensors";
  train::TensorFile file = train::read_safetensors(checkpoint);
  for (auto& [name, t] : file.tensors)
    if (name == "model/blocks.1.attn.qkv.weight") t = t * std::nan("");
  train::write_safetensors(checkpoint, file);
  const std::vector<std::string> args = {"inspect", out.string(), "--data-dir", data.string()};
  const Finished text = run_norma(args), f = run_norma(with(args, {"--log-format", "json"}));
  CAPTURE(text.err, f.err);
  REQUIRE((text.code == 0 && f.code == 0));
  CHECK_THAT(text.out, !Contains("nan") && Contains("blocks.1.attn           1         -           -         -         -         -         -         -\n"));
  const auto j = nlohmann::json::parse(f.out);
  CHECK((j["answer"].is_null() && j["share"].is_null()));
  for (const auto& head : j["heads"])
    for (const char* field : {"fro", "jacobian", "row_sum", "min", "max", "negative_share", "entropy"}) {
      CAPTURE(head["place"], field);
      CHECK(head[field].is_null() == (head["place"] == "blocks.1.attn"));
    }
  const auto layer = data_of(contents(out / "inspect-0.html"))["layers"][1];
  for (const char* field : {"fro", "jacobian", "row_sum", "min", "max", "negative_share", "entropy"}) CHECK(layer[field][0].is_null());

  const Finished evaluated = run_norma({"eval", out.string(), "--data-dir", data.string()});
  CHECK_THAT(evaluated.out, Contains("test_accuracy          -\ntest_loss              -\n"));
  CHECK_THAT(evaluated.err, Contains("the model's outputs are not finite, so that it names no class"));
}

TEST_CASE("inspect and theory say that the weights are averaged", "[inspect]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("inspect-ema") / "run";
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "2",
                     "--ema", "0.99", "--out", out.string()}).code == 0);
  const auto told = [&](const char* verb, const std::vector<std::string>& more = {}) {
    return run_norma(with({verb, out.string(), "--data-dir", data.string()}, more)).out;
  };
  CHECK_THAT(told("inspect"), Contains("attention softmax, N = 5, sqrt(N) = 2.24, averaged weights (--ema 0.99); the model says"));
  CHECK_THAT(contents(out / "inspect-0.html"), Contains("softmax after step 2, averaged weights (--ema 0.99); the model says"));
  CHECK_THAT(told("theory"), Contains("at step 2, averaged weights (--ema 0.99), softmax: mean norms"));
  CHECK_THAT(told("theory", {"--initial"}), Contains("at step 0, softmax: mean norms"));
  CHECK(nlohmann::json::parse(told("eval", {"--log-format", "json"}))["test_loss"] == nlohmann::json::parse(contents(out / "summary.json"))["test_loss"]);
  CHECK(nlohmann::json::parse(told("inspect", {"--log-format", "json"}))["weights"] == "averaged");
  CHECK(nlohmann::json::parse(told("theory", {"--log-format", "json"}))["weights"] == "averaged");
  CHECK(nlohmann::json::parse(told("theory", {"--log-format", "json", "--initial"}))["weights"] == "initial");
}

TEST_CASE("inspect and theory say that the Jacobian is not that of a clamped matrix", "[inspect]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("inspect-clamp");
  const auto told = [&](const char* verb, const std::string& run) { return run_norma({verb, (runs / run).string(), "--data-dir", data.string()}).out; };
  for (const auto& [run, clamp] : {std::pair{"clamped", "fro:0.5"}, {"free", ""}})
    REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "1",
                       "--clamp", clamp, "--out", (runs / run).string()}).code == 0);
  CHECK_THAT(told("inspect", "clamped"), Contains("\nThis run clamps ||A||_F to 0.5; ||dA/dS||_F is that of the attention function before the clamp.\n"));
  CHECK_THAT(told("theory", "clamped"), Contains("\nThis run clamps ‖A‖_F to 0.5; ‖∂A/∂S‖_F is that of the attention function before the clamp, and the Gaussian columns are without it.\n"));
  for (const char* verb : {"inspect", "theory"}) CHECK_THAT(told(verb, "free"), Contains("blocks.0.attn") && !Contains("clamps"));
}

TEST_CASE("inspect and eval of a run with more classes than the set has, trained on a device that is not here", "[inspect]") {
  const auto data = tiny_data(64, 20), run = fresh_folder("elsewhere") / "run";
  const Finished trained = run_norma({"train", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "32",
                                      "--steps", "1", "--classes", "255", "--out", run.string()});
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  const std::vector<std::string> eval = {"eval", run.string(), "--data-dir", data.string()};
  const Finished here = run_norma(eval);
  write(run / "config.json", replaced(contents(run / "config.json"), R"("device": "cpu")", R"("device": "cuda:99")"));
  const Finished elsewhere = run_norma(eval);
  CHECK(elsewhere.code == 0);
  CHECK(elsewhere.out == here.out);
  CHECK_THAT(elsewhere.err, Contains("was trained on cuda:99; this machine computes it on the CPU ("));
  const Finished image = run_norma({"inspect", run.string(), "--data-dir", data.string(), "--log-format", "json"});
  CAPTURE(image.err);
  REQUIRE(image.code == 0);
  const std::string answer = nlohmann::json::parse(image.out)["answer"];  // of 255 classes ten have names
  CHECK((answer.size() <= 3 && std::stoi(answer) >= 10));
}

TEST_CASE("a checkpoint that config.json does not describe is refused; what decides no bit of a run may differ", "[inspect]") {
  const auto data = tiny_data(64, 20), run = fresh_folder("another") / "run";
  REQUIRE(run_norma(with(tiny_run(data, run), {"--steps", "2"})).code == 0);
  const std::string config = contents(run / "config.json"), checkpoint = (run / "checkpoint-000000002.safetensors").string();
  write(run / "config.json", replaced(config, R"("attention": "softmax")", R"("attention": "sigmoid")"));
  for (const char* verb : {"eval", "inspect", "theory"})
    for (const std::string& named : {run.string(), checkpoint}) {
      const Finished f = run_norma({verb, named, "--data-dir", data.string()});
      CHECK(f.code == 1);
      CHECK(f.out.empty());
      CHECK(f.err == "norma: " + checkpoint + ": was made with another configuration than " + (run / "config.json").string() +
                         ":\n  attention: \"softmax\" in the checkpoint, \"sigmoid\" in config.json\nput the file back that is not of this run\n");
    }
  CHECK(run_norma({"eval", run.string(), "--initial", "--data-dir", data.string()}).code == 0);  // no checkpoint's
  write(run / "config.json", replaced(replaced(config, R"("steps": 2)", R"("steps": 0)"), R"("attention": "softmax")", R"("attention": " softmax ")"));
  const Finished f = run_norma({"eval", run.string(), "--data-dir", data.string()});
  CAPTURE(f.err);
  CHECK(f.code == 0);
}

TEST_CASE("a run is evaluated where its data lies elsewhere and its instruction set is missing", "[inspect]") {
  const auto data = tiny_data(64, 20), there = fresh_folder("moved"), run = there / "run";
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "1",
                     "--out", run.string()}).code == 0);
  auto config = nlohmann::ordered_json::parse(contents(run / "config.json"));
  config["cpu"] = "amx";  // this processor may have it
  write(run / "config.json", config.dump());
  std::filesystem::rename(data, there / "data");
  const Finished f = run_norma({"eval", run.string(), "--data-dir", (there / "data").string()});
  CAPTURE(f.err);
  CHECK(f.code == 0);
}
