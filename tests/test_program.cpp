// The program as its users meet it: help, wrong input with its exact message and exit code, and results.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <array>
#include <cstdlib>
#include <fstream>

#include "tests/program.h"
#include "tests/tested_device.h"
#include "train/run_folder.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::Matches;
using Catch::Matchers::StartsWith;

TEST_CASE("help answers on every level", "[program]") {
  CHECK_THAT(run_norma({"--help"}).out, Contains("usage: norma VERB"));
  CHECK(run_norma({"--help"}).code == 0);
  for (const char* verb :
       {"train", "eval", "compare", "inspect", "report", "watch", "twin", "theory", "info", "data", "gradcheck", "replay", "bench"}) {
    const Finished f = run_norma({verb, "--help"});
    CAPTURE(verb, f.err);
    CHECK(f.code == 0);
    CHECK_THAT(f.out, Contains(std::string("usage: norma ") + verb));
    CHECK(f.err.empty());
    const Finished brief = run_norma({verb, "-h"});
    CHECK(brief.code == 0);
    CHECK(brief.out == f.out);
  }
  CHECK(run_norma({"-h"}).out == run_norma({"--help"}).out);
  CHECK(run_norma({"help", "train"}).out == run_norma({"train", "--help"}).out);
  for (const char* word : {"help", "--help", "-h"})
    for (const char* again : {"help", "--help", "-h"}) {
      const Finished f = run_norma({word, again});
      CAPTURE(word, again);
      CHECK((f.code == 0 && f.out == run_norma({"--help"}).out));
    }
  CHECK_THAT(run_norma({"help", "trian"}).err, StartsWith("norma: unknown verb \"trian\" (did you mean \"train\"?)"));
  CHECK(run_norma({"help", "attentoin"}).err == "norma: unknown topic \"attentoin\" (did you mean \"attention\"?); see norma --help\n");
  CHECK(run_norma({"version"}).out == run_norma({"--version"}).out);
}

TEST_CASE("help fits the terminal, and elsewhere 100 characters", "[program]") {
  for (const std::string verb : {"train", "eval", "compare", "inspect", "report", "watch", "twin", "theory", "info", "data", "gradcheck", "replay", "bench"}) {
    CAPTURE(verb);
    CHECK(widest_line(run_norma({verb, "--help"}).out) <= 100);
    CHECK(widest_line(on_terminal({verb, "--help"}, "xterm", "", 80, 1)) <= 80);
  }
  CHECK(widest_line(run_norma({"help", "attention"}).out) <= 100);
  CHECK(widest_line(on_terminal({"help", "attention"}, "xterm", "", 80, 1)) <= 80);
  CHECK_THAT(on_terminal({"train", "--help"}, "xterm", "", 80, 1),
             Contains("\n  --preset TEXT            sizes to start from: tiny (192/12/3), small\n                           (384/12/6), base (768/12/12) [tiny]\n"));
  CHECK_THAT(run_norma({"--help"}).out, Contains("\n  norma train vit --data fashion-mnist --width 64 --depth 3 --heads 2 --init-std 0 --epochs 1 --out runs/b --attention \"x^3/sqrt(N)\"\n"));
}

TEST_CASE("wrong usage says what, and what to do, with exit code 2", "[program]") {
  check_refused({
      {{"trian"}, 2, "norma: unknown verb \"trian\" (did you mean \"train\"?); see norma --help\n"},
      {{"train", "--epoch", "2"}, 2, "norma: unknown flag --epoch (did you mean --epochs?)\n"},
      {{"train", "--lr"}, 2, "norma: --lr needs a value: peak learning rate\n"},
      {{"train", "vit", "--data-dir", "none", "--out", "--resume"}, 2, "norma: --out needs a value, and --resume begins as a flag does; write --out=--resume if that is meant\n"},
      {{"train", "--lr", "fast"}, 2, "norma: --lr: \"fast\" is not a number; peak learning rate\n"},
      {{"train", "--batch", "2.5"}, 2, "norma: --batch: \"2.5\" is not a whole number; images a step\n"},
      {{"train", "--batch", "0"}, 2, "norma: --batch: 0 must be in 1..1000000\n"},
      {{"train", "--dropout", "1.5"}, 2, "norma: --dropout: 1.5 must be in [0, 1)\n"},
      {{"train", "--warmup-epochs", "1e300"}, 2, "norma: --warmup-epochs: 1e+300 must be in 0..1000000\n"},
      {{"train", "--rand-augment", "9"}, 2, "norma: --rand-augment: 9 must be in 0..8\n"},
      {{"train", "--rand-magnitude", "-1"}, 2, "norma: --rand-magnitude: -1 must be in 0..30\n"},
      {{"train", "--out", "caf\xe9"}, 2, "norma: --out: the text is not UTF-8 (byte 3)\n"},
      {{"train", "--momentum", "1"}, 2, "norma: --momentum: 1 must be in [0, 1)\n"},
      {{"train", "--init-std", "-0.1"}, 2, "norma: --init-std: -0.1 must be 0 or more\n"},
      {{"train", "--seed", "-1"}, 2, "norma: --seed: -1 must be 0 or more\n"},
      {{"train", "--log-every", "0"}, 2, "norma: --log-every: 0 must be more than 0\n"},
      {{"train", "--min-lr", "-1"}, 2, "norma: --min-lr: -1 must be 0 or more\n"},
      {{"train", "--min-lr", "0.1"}, 2, "norma: --min-lr: 0.1 is above --lr 0.001, where the cosine begins; give at most that\n"},
      {{"train", "--warmup-epochs", "-1"}, 2, "norma: --warmup-epochs: -1 must be 0 or more\n"},
      {{"train", "--epochs", "1000001"}, 2, "norma: --epochs: 1000001 must be in 1..1000000\n"},
      {{"info", "vit", "--image", "1000000"}, 2, "norma: --image: 1000000 must be in 0..16384\n"},
      {{"info", "vit", "--patch", "0"}, 2, "norma: --patch: 0 must be in 1..16384\n"},
      {{"info", "vit", "--mlp-ratio", "1000"}, 2, "norma: --mlp-ratio: 1000 must be in 1..256\n"},
      {{"train", "--threads", "-1"}, 2, "norma: --threads: -1 must be in 0..1024; 0 is all cores\n"},
      {{"train", "--threads", "1025"}, 2, "norma: --threads: 1025 must be in 0..1024; 0 is all cores\n"},
      {{"eval", "runs/a", "--threads", "1025"}, 2, "norma: --threads: 1025 must be in 0..1024; 0 is all cores\n"},
      {{"inspect", "runs/a", "--threads", "1025"}, 2, "norma: --threads: 1025 must be in 0..1024; 0 is all cores\n"},
      {{"replay", "runs/a", "--threads", "1025"}, 2, "norma: --threads: 1025 must be in 0..1024; 0 is all cores\n"},
      {{"theory", "--threads", "1025"}, 2, "norma: --threads: 1025 must be in 0..1024; 0 is all cores\n"},
      {{"train", "vit", "--cpu", "avx3"}, 2, "norma: --cpu: unknown instruction set \"avx3\"; there are base, avx2, avx512, avx512bf16, amx\n"},
      {{"train", "--optimizer", "adam"}, 2, "norma: --optimizer: \"adam\" is unknown; there are adamw, sgd\n"},
      {{"train", "--dtype", "f16"}, 2, "norma: --dtype: \"f16\" is unknown; there are f32, f64, bf16\n"},
      {{"train", "--device", "tpu"}, 2, "norma: device \"tpu\" is unknown; there are cpu, cuda, cuda:INDEX, reference\n"},
      {{"train", "vit", "again"}, 2, "norma: train: unexpected \"again\"; the one model is vit, see norma train --help\n"},
      {{"train"}, 2, "norma: train: name the model, as in norma train vit --data fashion-mnist --out runs/a; see norma train --help\n"},
      {{"twin"}, 2, "norma: twin: name the model, as in norma twin vit --data fashion-mnist --out runs/twin; see norma twin --help\n"},
      {{"info", "--lr", "1"}, 2, "norma: --lr means nothing here; see --help\n"},
      {{"gradcheck", "softmax", "--resume"}, 2, "norma: --resume means nothing here; see --help\n"},
      {{"eval", "runs/a", "--log-format", "xml"}, 2, "norma: --log-format: \"xml\" is unknown; there are text, json\n"},
      {{"compare"}, 2, "norma: compare: name the run folders, as in norma compare runs/a runs/b\n"},
      {{"train", "vit", "--out", ""}, 2, "norma: --out: is empty; name a folder\n"},
      {{"report", "runs/a", "--html", ""}, 2, "norma: --html: is empty; name a file, or leave it out for report.html\n"},
      {{"compare", "runs/a", "--html", ""}, 2, "norma: --html: is empty; name a file, or leave it out for compare.html\n"},
      {{"inspect", "runs/a", "--html", ""}, 2, "norma: --html: is empty; name a file, or leave it out for one in the run folder\n"},
      {{"inspect", "runs/a", "--image", ""}, 2, "norma: --image: is empty; name a PGM or PPM file, or leave it out for a test image\n"},
      {{"eval"}, 2, "norma: eval: name one run folder, as in norma eval runs/a\n"},
      {{"eval", "no-such-run"}, 1, "norma: run folder no-such-run: there is no such folder\n"},
      {{"bench"}, 2, "norma: bench: name what is to be measured: gemm\n"},
      {{"bench", "conv"}, 2, "norma: bench: there is gemm, not \"conv\"\n"},
      {{"bench", "gemm", "--cpu", "avx3"}, 2, "norma: --cpu: unknown instruction set \"avx3\"; there are base, avx2, avx512, avx512bf16, amx\n"},
      {{"bench", "gemm", "--threads", "-1"}, 2, "norma: --threads: -1 must be in 0..1024; 0 is all cores\n"},
      {{"bench", "gemm", "--filter", "5 5 5"}, 2, "norma: --filter: no product's line contains \"5 5 5\"\n"},
      {{"bench", "gemm", "--shapes", "65,768,192; 65,768"}, 2, "norma: --shapes: \" 65,768\" is no layer: give rows,out,in, each from 1 to 1048576, as in \"4160,576,192; 65,768,192\"\n"},
      {{"bench", "gemm", "--shapes", "65,0,192"}, 2, "norma: --shapes: \"65,0,192\" is no layer: give rows,out,in, each from 1 to 1048576, as in \"4160,576,192; 65,768,192\"\n"},
      {{"bench", "gemm", "--shapes", "65,768,192,1"}, 2, "norma: --shapes: \"65,768,192,1\" is no layer: give rows,out,in, each from 1 to 1048576, as in \"4160,576,192; 65,768,192\"\n"},
      {{"gradcheck", "sofmax"}, 2, "norma: gradcheck: unknown op \"sofmax\" (did you mean \"softmax\"?)\n"},
      {{"gradcheck", "--model", "vit", "log1p"}, 2, "norma: gradcheck: --model is for a model and \"log1p\" is an op; check one of them at a time\n"},
      {{"gradcheck", "log1p", "--mlp-ratio", "2"}, 2, "norma: gradcheck: --mlp-ratio is for a model and \"log1p\" is an op; check one of them at a time\n"},
      {{"gradcheck", "--device", "cpu"}, 2, "norma: --device means nothing here; see --help\n"},
      {{"gradcheck", "--width", "9"}, 2, "norma: vit: width 9 is not a multiple of heads 2; it is of 1, 3, 9\n"},
      {{"gradcheck", "--model", "vit", "--width", "256"}, 2,
       "norma: gradcheck: this model has 1586691 parameters, and each costs four forward passes; at most 50000 are checked: give a smaller --width, --depth or "
       "--image (8, 2 and 8 if left out)\n"},
      {{"data", "--from", "files"}, 2, "norma: --from: is for norma data get; name the data set, as in norma data get cifar-10 --from files\n"},
      {{"data", "fetch"}, 2, "norma: data: unknown word \"fetch\" (did you mean \"get\"?); see norma data --help\n"},
      {{"train", "--width", "99999999999999999999"}, 2, "norma: --width: 99999999999999999999 is beyond what a number holds here\n"},
      {{"train", "--lr", "1e999"}, 2, "norma: --lr: 1e999 is beyond what a number holds here\n"},
      {{"train", "gpt"}, 2, "norma: train: unexpected \"gpt\"; the one model is vit, see norma train --help\n"},
      {{"inspect", "runs/a", "--image", "a.pgm", "--index", "3"}, 2, "norma: inspect: --image and --index are two ways to name one image; give one of them\n"},
      {{"train", "--config", "/tmp"}, 2, "norma: /tmp: is a folder; name a file\n"},
      {{"train", "--config", "absent.json"}, 2, "norma: absent.json: cannot be read; is the path right?\n"},
  });
}

TEST_CASE("a model that memory cannot hold is refused before anything is read or filled", "[program]") {
  const Finished huge = run_norma({"train", "vit", "--width", "65536", "--depth", "1000", "--heads", "64", "--data-dir", "none-of-these"});
  CHECK(huge.code == 1);
  CHECK_THAT(huge.err, StartsWith("norma: out of memory: 5.15e+13 parameters, their gradients and the state of adamw need ") &&
                           Contains(" free; a smaller --width or --depth needs less"));
}

TEST_CASE("a wrong attention text or preset names what is near", "[program]") {
  Finished f = run_norma({"info", "--attention", "sofmax"});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("did you mean \"softmax\"?"));
  f = run_norma({"info", "--preset", "tinny"});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("tiny"));
}

TEST_CASE("every recipe is a run that could begin", "[program]") {
  int recipes = 0;
  for (const auto& file : std::filesystem::directory_iterator(source_folder() / "recipes")) {
    const Finished f = run_norma({"train", "vit", "--config", file.path().string(), "--print-config"});
    CAPTURE(file.path().string(), f.err);
    CHECK(f.code == 0);
    const Finished info = run_norma({"info", "vit", "--config", file.path().string()});
    CHECK(info.code == 0);
    ++recipes;
  }
  CHECK(recipes > 0);
}

TEST_CASE("info counts the parameters of the paper's models", "[program]") {
  auto parameters = [](const std::vector<std::string>& more) {
    const Finished f = run_norma(with({"info", "vit", "--log-format", "json"}, more));
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return nlohmann::json::parse(f.out)["parameters"].get<Index>();
  };
  CHECK(parameters({"--preset", "tiny"}) == 5717416);
  CHECK(parameters({"--preset", "small"}) == 22050664);
  CHECK(parameters({"--preset", "tiny", "--image", "64", "--patch", "4", "--classes", "200"}) == 5436296);
  CHECK(parameters({"--image", "224"}) == 5717416);  // what is left out does not depend on what is given
  CHECK(parameters({"--channels", "3", "--classes", "0"}) == 5717416);
  const Finished large = run_norma({"info", "--batch", "1000000", "--width", "4096", "--heads", "4", "--depth", "100", "--image", "4096", "--patch", "4", "--log-format", "json"});
  CAPTURE(large.err);
  REQUIRE(large.code == 0);
  for (const char* field : {"flops", "activation_bytes"}) CHECK(nlohmann::json::parse(large.out)[field].get<double>() > 0x1p63);
  CHECK_THAT(run_norma({"info", "--help"}).out, Contains("[224]") && Contains("[16]") && Contains("[1000]"));
}

TEST_CASE("info counts what a step holds", "[program]") {
  const Finished f = run_norma({"info", "vit", "--width", "16", "--depth", "2", "--heads", "2", "--image", "28", "--patch", "7", "--channels", "1", "--classes", "10", "--batch", "3", "--log-format", "json"});
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto told = nlohmann::json::parse(f.out);
  const Index parameters = told["parameters"], tokens = 17;
  CHECK((told["tokens"] == tokens && told["parameter_bytes"] == 4 * parameters));
  CHECK(told["training_state_bytes"] == 4 * 4 * parameters);  // beside the gradient two moments
  // Of a token 12 rows of the width; behind the last block's attention, where 6 of them lie, of the class token alone.
  CHECK(told["activation_bytes"] == 4 * 3 * 16 * (tokens * 2 * 12 - (tokens - 1) * 6));
}

TEST_CASE("gradcheck of a model whose derivatives are no numbers fails", "[program]") {
  const std::vector<std::string> args = {"gradcheck", "--model", "vit", "--width", "2", "--heads", "1", "--depth", "1", "--image", "4", "--attention", "1e200x^8", "--init-std", "1e20"};
  const Finished f = run_norma(args);
  CHECK(f.code == 1);
  CHECK_THAT(f.out, Contains("first WRONG at "));
  CHECK(nlohmann::json::parse(run_norma(with(args, {"--log-format", "json"})).out)["ok"] == false);
}

TEST_CASE("gradcheck of a model with dropout drops, and the same in every evaluation", "[program]") {
  const auto worst = [](const std::vector<std::string>& more) {
    const Finished f = run_norma(with({"gradcheck", "--model", "vit", "--depth", "2", "--width", "4", "--log-format", "json"}, more));
    CAPTURE(f.err);
    CHECK(f.code == 0);
    return nlohmann::json::parse(f.out)["checks"][0]["worst"].get<double>();
  };
  const double none = worst({}), weights = worst({"--dropout", "0.5"}), paths = worst({"--drop-path", "0.5"});
  CHECK((none != weights && none != paths));
}

TEST_CASE("info counts the operations of a small model in MFLOP", "[program]") {
  const auto told = [](const std::vector<std::string>& more) { return run_norma(with({"info", "vit", "--depth", "1", "--heads", "1", "--batch", "1"}, more)).out; };
  const std::string small = told({"--width", "16", "--image", "28", "--patch", "7", "--channels", "1", "--classes", "10"});
  CAPTURE(small);
  CHECK_THAT(small, Contains(" MFLOP a training step of batch 1") && !Contains("GFLOP"));
  CHECK_THAT(told({"--width", "192"}), Contains(" GFLOP a training step of batch 1"));
}

TEST_CASE("gradcheck of a model with relu: no kink within the step makes a derivative wrong", "[program]") {
  for (const char* attention : {"relu", "relu/N"})
    for (const char* seed : {"1", "3", "5"}) {
      const Finished f = run_norma({"gradcheck", "--model", "vit", "--attention", attention, "--seed", seed});
      CAPTURE(attention, seed, f.out, f.err);
      CHECK(f.code == 0);
    }
}

TEST_CASE("gradcheck takes the model's sizes as they are given", "[program]") {
  const auto checked = [](const std::vector<std::string>& more) {
    const Finished f = run_norma(with({"gradcheck", "--model", "vit"}, more));
    CAPTURE(f.err);
    CHECK(f.code == 0);
    return f.out;
  };
  CHECK_THAT(checked({}), StartsWith("vit 8/2/2 with softmax "));
  CHECK_THAT(checked({"--width", "12", "--depth", "1", "--heads", "3", "--attention", "x^3/sqrt(N)"}), StartsWith("vit 12/1/3 with x^3/sqrt(N) "));
  CHECK_THAT(run_norma({"gradcheck", "--help"}).out, Contains("width of the token vectors [8]") && Contains("number of blocks [2]"));
}

TEST_CASE("gradcheck of a run's model is in f64 on the CPU, whatever the run is", "[program]") {
  const auto file = fresh_folder("gradcheck") / "config.json";
  std::ofstream(file) << R"({"dtype": "bf16", "device": "reference", "image": 8, "patch": 4, "channels": 1, "classes": 3, "width": 4, "depth": 1, "heads": 1})";
  const Finished f = run_norma({"gradcheck", "--config", file.string()});
  CAPTURE(f.err);
  CHECK(f.code == 0);
  CHECK_THAT(f.out, StartsWith("vit 4/1/1 with softmax ") && Contains("first ok"));
}

TEST_CASE("as many threads as are allowed can be started", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("most-threads");
  const Finished f = run_norma(with(tiny_run(data, runs / "a"), {"--threads", "1024"}));
  CAPTURE(f.err);
  CHECK(f.code == 0);
  CHECK(run_norma({"eval", (runs / "a").string(), "--data-dir", data.string(), "--threads", "1024"}).code == 0);
}

TEST_CASE("help tells what attention functions there are", "[program]") {
  const Finished f = run_norma({"help", "attention"});
  CHECK((f.code == 0 && f.err.empty()));
  for (const char* form : {"softmax", "x^3/sqrt(N)", "/sqrt(196)", "x^2/sum(x^2)", "sigmoid(x - log(N))", "relu/sqrt(n)", "n is N"}) CHECK_THAT(f.out, Contains(form));
  CHECK_THAT(run_norma({"--help"}).out, Contains("`norma help attention`"));
}

TEST_CASE("a moving average that is mostly initial weights is told", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("slow-average");
  const std::vector<std::string> flags = with(tiny_run(data, runs / "a"), {"--batch", "4", "--ema", "0.99", "--warmup-epochs", "0"});
  CHECK_THAT(run_norma(flags).err, Contains("--ema 0.99: of the average that is tested, 85 % are the initial weights still after 16 steps; --ema 0.6875 leaves less than 1 %\n"));
  CHECK_THAT(run_norma(with(tiny_run(data, runs / "b"), {"--batch", "4", "--ema", "0.6875", "--warmup-epochs", "0"})).err, !Contains("average"));
}

TEST_CASE("a warm-up longer than the run is told", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("warm-up");
  const Finished f = run_norma(with(tiny_run(data, runs / "a"), {"--warmup-epochs", "3", "--batch", "4"}));
  CHECK(f.code == 0);
  CHECK_THAT(f.err, Contains("--epochs 1 ends within the warm-up of 48 steps (--warmup-epochs 3): the learning rate reaches 0.00031 of 0.001; --warmup-epochs 0.5 makes it 8\n"));
  const std::vector<std::string> stopped = with(tiny_run(data, runs / "b"), {"--batch", "4", "--warmup-epochs", "0.5", "--steps", "4"});
  const std::string told = "--steps 4 ends within the warm-up of 8 steps (--warmup-epochs 0.5): the learning rate reaches 0.00038 of 0.001; --warmup-epochs 0.1 makes it 2\n";
  CHECK_THAT(run_norma(stopped).err, Contains(told));
  CHECK_THAT(run_norma(with(stopped, {"--steps", "6", "--resume"})).err, !Contains("warm-up"));  // whose schedule is what it is
  CHECK_THAT(run_norma(with(tiny_run(data, runs / "c"), {"--batch", "4", "--warmup-epochs", "0.5", "--steps", "8"})).err, !Contains("warm-up"));
  std::vector<std::string> twin = with(tiny_run(data, runs / "d"), {"--batch", "4", "--warmup-epochs", "0.5", "--steps", "4"});
  twin[0] = "twin";
  CHECK_THAT(run_norma(twin).err, Contains(told));
}

TEST_CASE("padding beyond the data set's images is refused", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("pad");
  const Finished f = run_norma(with(tiny_run(data, runs / "a"), {"--pad", "29"}));
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Equals("norma: --pad: 29 must be in 0..28, the side of the data set's images: a window further off holds nothing of them\n"));
  CHECK(run_norma(with(tiny_run(data, runs / "a"), {"--pad", "28"})).code == 0);
}

TEST_CASE("the instruction set is chosen by a flag or by the environment", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("cpu");
  const auto test_loss = [&](const char* name, const std::vector<std::string>& flags) {
    const Finished f = run_norma(with(with(tiny_run(data, runs / name), {"--log-format", "json"}), flags));
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return nlohmann::json::parse(f.out)["test_loss"].dump();
  };
  const std::string by_flag = test_loss("flag", {"--cpu", "base"});
  ::setenv("NORMA_CPU", "base", 1);
  const std::string by_variable = test_loss("variable", {});
  ::setenv("NORMA_CPU", "avx3", 1);
  const Finished wrong = run_norma(tiny_run(data, runs / "wrong"));
  ::unsetenv("NORMA_CPU");
  CHECK(by_variable == by_flag);
  for (const char* run : {"flag", "variable"}) CHECK(nlohmann::json::parse(contents(runs / run / "status.json"))["cpu"] == "base");
  for (const std::vector<std::string>& verb : {std::vector<std::string>{"train"}, {"bench", "gemm"}})
    CHECK_THAT(run_norma(with(verb, {"--help"})).out, Contains("NORMA_CPU"));
  CHECK(wrong.code == 1);
  CHECK(wrong.err == "norma: NORMA_CPU: unknown instruction set \"avx3\"; there are base, avx2, avx512, avx512bf16, amx\n");
}

TEST_CASE("train, eval and compare on a tiny data set", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("train");
  const Finished a = run_norma(with(tiny_run(data, runs / "a"), {"--log-format", "json"}));
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  const auto result = nlohmann::json::parse(a.out);
  const Finished b = run_norma(with(tiny_run(data, runs / "b"), {"--attention", "x^3/sqrt(N)"}));
  REQUIRE(b.code == 0);
  CHECK_THAT(b.out, Matches("(.|\n)*\ntest_accuracy          [0-9]+\\.[0-9]{2} %\ntest_loss              [0-9.]+\nseconds                [0-9]+\\.[0-9]\n"));

  const Finished e = run_norma({"eval", (runs / "a").string(), "--data-dir", data.string(), "--log-format", "json"});
  CAPTURE(e.err);
  REQUIRE(e.code == 0);
  CHECK(nlohmann::json::parse(e.out)["test_accuracy"] == result["test_accuracy"]);

  const auto page = runs / "page.html";
  const Finished c = run_norma({"compare", (runs / "a").string(), (runs / "b").string(), "--html", page.string()});
  CAPTURE(c.err);
  REQUIRE(c.code == 0);
  CHECK_THAT(c.out, Contains("x^3/sqrt(N)") && Contains("block 0") && !Contains("block 1") && !Contains("by setting"));
  const std::string html = contents(page);
  CHECK_THAT(html, StartsWith("<!doctype html>") && Contains("x^3/sqrt(N)"));
  CHECK(html.find("http://") == html.find("http://www.w3.org/2000/svg"));  // nothing is loaded from elsewhere
  CHECK(html.find("https://") == std::string::npos);

  const Finished lost = run_norma({"compare", (runs / "a").string(), "--html", (runs / "absent" / "page.html").string()});
  CHECK(lost.code == 1);
  CHECK_THAT(lost.out, Contains("block 0") && !Contains("page:"));
  CHECK_THAT(lost.err, Contains("page.html: cannot be created"));
  const Finished file = run_norma({"compare", (runs / "a" / "config.json").string()});
  CHECK(file.code == 1);
  CHECK_THAT(file.err, Equals(fmt::format("norma: run folder {0}/config.json: is a file; name the run's folder, as in {0}\n", (runs / "a").string())));

  const Finished again = run_norma(tiny_run(data, runs / "a"));
  CHECK(again.code == 1);
  CHECK_THAT(again.err, Contains("already holds a run; go on with --resume, or choose another with --out"));

  // What ended before its first step leaves nothing that a new run would lose; a folder that is not of a run is not written over.
  std::filesystem::create_directories(runs / "none");
  std::ofstream(runs / "none" / "config.json") << "{}";
  CHECK(run_norma(tiny_run(data, runs / "none")).code == 1);
  std::ofstream(runs / "none" / "status.json") << R"({"step": 0, "ending": "", "seconds": 0})";
  CHECK(run_norma(tiny_run(data, runs / "none")).code == 0);

  auto resumed = tiny_run(data, runs / "a");
  resumed.push_back("--resume");
  {
    const train::FolderLock held(runs / "a");
    const Finished beside = run_norma(resumed);
    CHECK(beside.code == 1);
    CHECK_THAT(beside.err, Contains("another process is training into it; wait until it has ended, or choose another with --out"));
  }
  CHECK(run_norma(resumed).code == 0);
}

TEST_CASE("a run's config.json out of range is refused before any memory is taken", "[program]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("ranges") / "run";
  REQUIRE(run_norma(tiny_run(data, out)).code == 0);
  auto config = nlohmann::json::parse(contents(out / "config.json"));
  config["depth"] = 1000000000;
  std::ofstream(out / "config.json") << config;
  for (const char* verb : {"eval", "inspect"}) {
    const Finished f = run_norma({verb, out.string()});
    CHECK(f.code == 1);
    CHECK_THAT(f.err, Equals(fmt::format("norma: {}/config.json: depth: 1000000000 must be in 1..1000\n", out.string())));
  }
}

TEST_CASE("a run name that looks like script stays text in the page", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("names");
  const auto bad = runs / "<script>alert(1)<";
  REQUIRE(run_norma(tiny_run(data, bad)).code == 0);
  REQUIRE(run_norma({"compare", bad.string(), "--html", (runs / "page.html").string()}).code == 0);
  const std::string html = contents(runs / "page.html");
  CHECK(html.find("<script>alert") == std::string::npos);
  CHECK_THAT(html, Contains("\\u003cscript>alert(1)"));
}

TEST_CASE("a run whose name is no UTF-8 is compared, inspected and measured", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("bytes");
  const std::string run = (runs / "\xff").string(), page = (runs / "page.html").string();
  REQUIRE(run_norma(tiny_run(data, runs / "run")).code == 0);
  std::filesystem::rename(runs / "run", run);  // training itself wants UTF-8
  const std::vector<std::vector<std::string>> calls = {{"compare", run, "--html", page}, {"inspect", run, "--html", page, "--data-dir", data.string()},
                                                       {"theory", run, "--data-dir", data.string()}};
  for (const auto& call : calls) {
    const Finished f = run_norma(with(call, {"--log-format", "json"}));
    CAPTURE(call[0], f.err);
    CHECK(f.code == 0);
    CHECK(nlohmann::json::accept(f.out));
  }
}

TEST_CASE("missing, swapped and cut data files are named", "[program]") {
  const auto runs = fresh_folder("bad-data");
  auto message = [&](const std::filesystem::path& data, const char* out) { return run_norma(tiny_run(data, runs / out)); };
  auto data = tiny_data(64, 20);
  const auto folder = data / "fashion-mnist";
  std::filesystem::resize_file(folder / "train-images-idx3-ubyte", 1000);
  Finished f = message(data, "cut");
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("train-images-idx3-ubyte"));
  data = tiny_data(64, 20);
  std::filesystem::rename(folder / "train-images-idx3-ubyte", folder / "x");
  std::filesystem::rename(folder / "train-labels-idx1-ubyte", folder / "train-images-idx3-ubyte");
  std::filesystem::rename(folder / "x", folder / "train-labels-idx1-ubyte");
  f = message(data, "swapped");
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("train-images-idx3-ubyte"));
  data = tiny_data(64, 20);
  std::filesystem::remove(folder / "t10k-labels-idx1-ubyte");
  f = message(data, "missing");
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("t10k-labels-idx1-ubyte") && Contains("norma data get fashion-mnist"));
}

TEST_CASE("an output folder that cannot be written is an error with its path", "[program]") {
  const auto data = tiny_data(64, 20);
  const Finished f = run_norma(tiny_run(data, "/proc/norma-run"));
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("run folder /proc/norma-run") && Contains("choose another with --out"));
}

TEST_CASE("a disk that is full is an error with the file, and leaves nothing half-written", "[program]") {
  const auto data = tiny_data(64, 20);
  const auto out = fresh_folder("full") / "run";
  Program program(with(tiny_run(data, out), {"--width", "32"}), ".", 60000);  // enough for the texts, not for a checkpoint
  const Finished f = program.wait();
  CAPTURE(f.err);
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("norma: ") && Contains((out / "checkpoint").string()) && Contains("file too large"));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(out))
    CHECK_THAT(entry.path().filename().string(), !Contains("tmp") && !Contains("safetensors"));
}

TEST_CASE("closed or full standard streams: a run goes on without them, a result that cannot be written is a failure", "[program]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("streams");
  const auto shell = [](const std::vector<std::string>& args, const std::string& redirections) {
    std::string line = "'" NORMA_PROGRAM "'";
    for (const std::string& a : args) line += " '" + a + "'";
    return WEXITSTATUS(std::system((line + " " + redirections).c_str()));
  };
  CHECK(shell({"trian"}, ">/dev/null 2>/dev/full") == 2);
  CHECK(shell({"--version"}, ">/dev/full 2>/dev/null") == 1);
  CHECK(shell(tiny_run(data, runs / "whole"), ">/dev/null 2>/dev/null") == 0);
  CHECK(shell(tiny_run(data, runs / "full"), ">/dev/null 2>/dev/full") == 0);
  CHECK(shell(tiny_run(data, runs / "closed"), "<&- >&- 2>&-") == 0);
  CHECK(shell(tiny_run(data, runs / "pipe"), "2>&1 >/dev/null | true") == 0);
  const auto event_bytes = [&](const char* run) {
    for (const auto& entry : std::filesystem::directory_iterator(runs / run))
      if (entry.path().filename().string().starts_with("events.")) return entry.file_size();
    return std::uintmax_t{0};
  };
  for (const char* run : {"full", "closed", "pipe"}) {
    INFO(run);
    CHECK(std::filesystem::exists(runs / run / "summary.json"));
    CHECK(event_bytes(run) == event_bytes("whole"));  // nothing that was told is in it
  }
}
