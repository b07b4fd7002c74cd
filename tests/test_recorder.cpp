// The flight recorder: what it keeps, that training does not notice, and what becomes of it when a run is cut or a file damaged.
#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>

#include "autograd/ops.h"
#include "inspect/base64.h"
#include "inspect/probe.h"
#include "tests/errors.h"
#include "tests/program.h"
#include "tests/worst.h"
#include "tests/written_run.h"
#include "train/loop.h"
#include "train/prefix.h"
#include "train/record_folder.h"
#include "train/recorder.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using train::Json;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> run_args(const fs::path& data, const fs::path& out, const std::vector<std::string>& more = {}) {
  return with(small_run(data, out, {"--epochs", "2", "--dropout", "0.1", "--drop-path", "0.1", "--checkpoint-every", "5", "--log-every", "3", "--attention", "x^3/sqrt(N)"}), more);
}
const std::vector<std::string> recorded{"--record", "blocks.*.attn", "--record-every", "6"};
constexpr const char* last = "checkpoint-000000028.safetensors";  // 2 epochs of 14 batches

/// Every file of record/, by name.
std::map<std::string, std::string> records(const fs::path& run) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(run / "record"))
    if (entry.path().extension() != ".tmp") files[entry.path().filename().string()] = contents(entry.path());
  return files;
}

Json recording_in(const fs::path& page) {
  return data_of(contents(page))["runs"][0]["recording"];
}

fs::path short_run(const std::string& name) {
  const fs::path run = fresh_folder(name) / "run";
  const Finished f = run_norma(run_args(tiny_data(232, 20), run, with(recorded, {"--steps", "13"})));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  return run;
}

}  // namespace

TEST_CASE("recording changes no bit of training, and says what it will take", "[recorder]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("recorder-bits");
  REQUIRE(run_norma(run_args(data, runs / "without")).code == 0);
  const Finished f = run_norma(run_args(data, runs / "with", recorded));
  REQUIRE(f.code == 0);
  for (const char* file : {last, "metrics.jsonl"}) CHECK((contents(runs / "with" / file) == contents(runs / "without" / file)));
  CHECK(!contents(runs / "with" / last).empty());
  CHECK(!fs::exists(runs / "without" / "record"));
  // 2 layers x 4 images x 2 heads x 17 x 17 floats = 18496 bytes, six times
  CHECK_THAT(f.err, Contains(fmt::format("recorder: A of blocks.0.attn, blocks.1.attn on 4 test images every 6 steps: 6 records, 0.106 MiB in {}; "
                                         "the full matrices are formed for these records only\n", (runs / "with" / "record").string())));
  CHECK(train::recorded_steps(runs / "with") == std::vector<Index>{0, 6, 12, 18, 24, 28});
}

TEST_CASE("a record holds the attention weights of the composition, to the bit", "[recorder]") {
  const auto data = tiny_data(232, 20);
  const bool class_token = GENERATE(true, false);
  const Index tokens = class_token ? 17 : 16;
  train::TrainConfig config;
  config.pool = class_token ? "cls" : "mean";
  config.data_dir = data.string(), config.width = 16, config.depth = 2, config.heads = 2, config.patch = 7;
  config.record = "blocks.{1,6,11}.attn", config.record_images = 3, config.out = fresh_folder("recorder-weights").string();
  const datasets::ImageSet test = datasets::load_images("fashion-mnist", data).test;
  const models::ViTConfig shape = train::vit_config(config, 28, 1, 10);
  models::ViT model(shape, 5);
  const datasets::LoaderConfig loader = train::loader_config(config, shape, false);
  train::FlightRecorder(model, config, test, loader, 100).record(40);

  inspect::Probe probe(model);
  probe.value("blocks.1.attn.scores", inspect::keep_all());
  const NoGrad off;
  datasets::Loader all(test, loader);
  (void)model(slice(all.next().images, 0, 0, 3));
  const std::vector<double> a = softmax(probe.take_values().at("blocks.1.attn.scores").at(0)).values();  // the oracle
  const inspect::Recording r = train::read_records(config.out, inspect::page_bytes);
  CHECK(r.notes.empty());
  REQUIRE(r.records.size() == 1);
  CHECK(r.records[0].step == 40);
  REQUIRE(r.records[0].layers.size() == 1);
  CHECK(r.records[0].layers[0].place == "blocks.1.attn");
  REQUIRE(r.records[0].layers[0].a.size() == a.size());
  CHECK(static_cast<Index>(a.size()) == 3 * 2 * tokens * tokens);
  CHECK(largest_difference(a, r.records[0].layers[0].a) == 0);
  CHECK((r.images.pixels == datasets::centred(datasets::slice(test, 0, 3), 28)));
  CHECK(r.images.labels.size() == 3);
  CHECK((r.images.class_token == class_token && r.images.patch == 7 && r.images.tokens() == tokens));
}

TEST_CASE("killed and resumed, a run has each record once, with the bits of a run left alone", "[recorder]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("recorder-kill");
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_norma(run_args(data, runs / "calm", recorded)).code == 0);
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(kill_until_finished(with(run_args(data, runs / "killed", recorded), {"--resume"}), runs / "killed", whole, {2025, 11}) > 0);
  CHECK((records(runs / "killed") == records(runs / "calm")));
  CHECK((contents(runs / "killed" / last) == contents(runs / "calm" / last)));

  // Records after the checkpoint are of a future that did not happen; recording may end, or begin, on the way.
  fs::remove(runs / "calm" / last);
  fs::rename(runs / "calm" / "record" / "step-000000028.safetensors", runs / "calm" / "record" / "step-000000027.safetensors");
  const Finished f = run_norma(with(run_args(data, runs / "calm"), {"--resume"}));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK(train::recorded_steps(runs / "calm") == std::vector<Index>{0, 6, 12, 18, 24});
  CHECK((contents(runs / "killed" / last) == contents(runs / "calm" / last)));
}

TEST_CASE("the report holds the recorded matrices", "[recorder]") {
  const fs::path run = short_run("recorder-report");
  const Finished f = run_norma({"report", run.string()});
  CHECK(f.code == 0);
  CHECK(f.err.empty());
  const Json r = recording_in(run / "report.html");
  CHECK((r["count"] == 4 && r["side"] == 28 && r["patch"] == 7 && r["class_token"] == true && r["labels"].size() == 4 && r["notes"].empty()));
  REQUIRE(r["records"].size() == 4);  // 0, 6, 12 and the end
  CHECK(r["records"][3]["step"] == 13);
  const inspect::Recording there = train::read_records(run, inspect::page_bytes);
  const auto& a = there.records[3].layers[1].a;
  const Json& layer = r["records"][3]["layers"]["blocks.1.attn"];
  REQUIRE(layer["fro"].size() == 4 * 2);
  double sum = 0, largest = 0;
  for (std::size_t i = 3 * 289; i < 4 * 289; ++i) sum += std::pow(static_cast<double>(a[i]), 2), largest = std::max(largest, std::abs(static_cast<double>(a[i])));
  CHECK(layer["fro"][3].get<double>() == Approx(std::sqrt(sum)));
  CHECK(layer["largest"][3].get<double>() == Approx(largest));
  CHECK(layer["a"].get<std::string>().size() == (2 * 4 * 2 * 289 + 2) / 3 * 4);
}

TEST_CASE("what does not fit a page is left out evenly, and said", "[recorder]") {
  const fs::path run = short_run("recorder-page");
  const std::size_t record = 2 * 4 * 2 * 289 * 8 / 3;  // bytes of a page
  const inspect::Recording two = train::read_records(run, 2 * record + record / 2);
  CHECK(two.images.count == 2);  // four steps of two images rather than two of four
  CHECK(two.images.labels.size() == 2);
  REQUIRE(two.records.size() == 4);
  CHECK(two.records[0].layers[0].a.size() == 2 * 2 * 289);
  CHECK(two.notes == std::vector<std::string>{"2 of the 4 recorded images are shown, to keep this page small"});
  const inspect::Recording few = train::read_records(run, 3 * record / 4 + 100);
  REQUIRE(few.records.size() == 3);
  CHECK((few.records[0].step == 0 && few.records[2].step == 13 && few.images.count == 1));
  REQUIRE(few.notes.size() == 2);
  CHECK_THAT(few.notes[1], Equals(fmt::format("3 of the 4 recorded steps are shown, evenly spaced, to keep this page small; all are in {}", (run / "record").string())));

  const fs::path nine = fresh_folder("recorder-nine");
  const inspect::ProbeImages images{1, 1, 4, 2, std::vector<std::uint8_t>(16, 9), {"x"}, false};
  for (Index step = 0; step < 9; ++step) train::write_record(nine, step, images, {{"blocks.0.attn", ones({1, 1, 4, 4})}});
  const inspect::Recording three = train::read_records(nine, 16 * inspect::page_bytes_a_number * 3 + 1);
  REQUIRE(three.records.size() == 3);
  CHECK((three.records[0].step == 0 && three.records[1].step == 4 && three.records[2].step == 8));
}

TEST_CASE("a cut, foreign or different record is a note in the report, not its end", "[recorder]") {
  const fs::path run = short_run("recorder-damaged"), record = run / "record";
  const fs::path newest = record / "step-000000013.safetensors";
  std::ofstream(record / "notes.txt") << "not a record";
  fs::resize_file(newest, 1000);
  train::write_safetensors(record / "step-000000006.safetensors", {{{"x", zeros({2})}}, {{"format", "pt"}}});
  inspect::ProbeImages other{1, 1, 28, 7, std::vector<std::uint8_t>(784, 9), {"Bag"}, true};
  train::write_record(run, 3, other, {{"blocks.0.attn", zeros({1, 2, 17, 17})}});
  train::write_record(run, 4, other, {{"blocks.0.attn", zeros({1, 2, 16, 16})}});
  const Finished f = run_norma({"report", run.string()});
  CHECK(f.code == 0);
  const auto path = [&](const char* file) { return (record / file).string(); };
  CHECK_THAT(f.err, Contains(newest.string() + ": tensor \"weights/blocks.0.attn\": data ends at 9248") && Contains("(truncated?); this step is left out\n") &&
                        Contains(path("step-000000006.safetensors") + ": not a record of this program (format \"pt\", expected \"norma-record-1\")") &&
                        Contains(path("step-000000003.safetensors") + ": is of other images than the newest record") &&
                        Contains(path("step-000000004.safetensors") + ": \"blocks.0.attn\" is f32 [1, 2, 16, 16], a record of 1 images with 17 tokens holds"));
  const Json r = recording_in(run / "report.html");
  CHECK(r["records"].size() == 2);
  CHECK(r["notes"].size() == 4);
}

TEST_CASE("numbers that are not finite can be recorded and shown", "[recorder]") {
  const fs::path run = short_run("recorder-nan");
  Tensor a = full({4, 2, 17, 17}, 0.5);
  a.mutable_data<float>()[0] = NAN;
  train::write_record(run, 13, train::read_records(run, inspect::page_bytes).images, {{"blocks.0.attn", a}});
  REQUIRE(run_norma({"report", run.string()}).code == 0);
  const Json layer = recording_in(run / "report.html")["records"][3]["layers"]["blocks.0.attn"];
  CHECK(layer["fro"][0].is_null());
  CHECK((layer["largest"][0] == 0.5 && layer["min"][0] == 0.5 && layer["fro"][1].get<double>() == Approx(8.5)));
  CHECK_THAT(layer["a"].get<std::string>(), Catch::StartsWith("AID/f/9/"));  // -32768, 32767, 32767
}

TEST_CASE("recorder: wrong usage ends before training", "[recorder]") {
  const auto data = tiny_data(232, 20);
  const fs::path run = fresh_folder("recorder-usage") / "run";
  auto error = [&](const std::vector<std::string>& more) {
    const Finished f = run_norma(run_args(data, run, more));
    CHECK(f.code == 2);
    CHECK(f.out.empty());
    CHECK(!fs::exists(run));
    return f.err;
  };
  CHECK_THAT(error({"--record", "block.*.attn"}), Equals("norma: --record: nothing matches \"block.*.attn\"; near: blocks.*.attn\n"));
  CHECK_THAT(error({"--record", "blocks.7.attn"}), Equals("norma: --record: nothing matches \"blocks.7.attn\"; near: blocks.*.attn\n"));
  CHECK_THAT(error({"--record", "blocks.*.attn", "--record-every", "0"}), Equals("norma: --record-every: 0 must be more than 0\n"));
  CHECK_THAT(error({"--record", "blocks.*.attn", "--record-every", "-5"}), Equals("norma: --record-every: -5 must be more than 0\n"));
  CHECK_THAT(error({"--record", "blocks.*.attn", "--record-images", "21"}), Equals("norma: --record-images: 21 are more than the 20 test images\n"));
  CHECK_THAT(error({"--record", "*", "--record-every", "1", "--record-images", "20", "--record-limit-mib", "2"}),
             Equals(fmt::format("norma: --record: 29 records of 0.0882 MiB would be 3 MiB in {}, more than --record-limit-mib 2; record fewer layers, "
                                "images (--record-images) or steps (--record-every), or raise the limit\n", (run / "record").string())));
}

TEST_CASE("a disk that is full while a record is written: the run goes on, the file is named once, and nothing is half written", "[recorder]") {
  const auto data = tiny_data(232, 20);
  const fs::path run = fresh_folder("recorder-full") / "run";
  Program p(run_args(data, run, with(recorded, {"--record-images", "20"})), ".", 60000);
  const Finished f = p.wait();
  CHECK(f.code == 1);  // for the checkpoint at its end
  CHECK_THAT(f.err, Contains((run / "record" / "step-000000000.safetensors").string()) && Contains("the run goes on without this record") && !Contains("step-000000006"));
  CHECK(train::recorded_steps(run).empty());
  CHECK(fs::is_empty(run / "record"));
}

TEST_CASE("a page holds each matrix with its signs: roots of what is left of its largest number", "[recorder]") {
  inspect::Recording r;
  r.images = {1, 1, 2, 1, {1, 2, 3, 4}, {"bag"}, false};
  std::vector<float> a(16, 0.0f);
  a[0] = -0.5f, a[1] = 0.25f, a[5] = -0.125f;
  r.records = {{3, {{"blocks.0.attn", 1, a}}}};
  const Json page = inspect::page_data(r);
  CHECK((page["class_token"] == false && page["labels"][0] == "bag" && page["records"][0]["step"] == 3));
  const Json layer = page["records"][0]["layers"]["blocks.0.attn"];
  CHECK((layer["min"][0] == -0.5 && layer["max"][0] == 0.25 && layer["largest"][0] == 0.5));
  CHECK(layer["fro"][0].get<double>() == Approx(std::sqrt(0.25 + 0.0625 + 0.015625)));
  std::vector<std::int16_t> bits(16, 0);
  bits[0] = -32767, bits[1] = 23170, bits[5] = -16384;  // 32767 times the roots of 1, 1/2 and 1/4
  CHECK(layer["a"] == inspect::base64(bits.data(), 32));

  const auto wrong = [](inspect::Recording other, auto change) {
    change(other);
    return error_of([&] { inspect::page_data(other); });
  };
  CHECK(wrong(r, [](auto& x) { x.images.patch = 0; }) == "page_data: images have a patch of 0 pixels, must be 1 to their side 2");
  CHECK(wrong(r, [](auto& x) { x.images.patch = 3; }) == "page_data: images have a patch of 3 pixels, must be 1 to their side 2");
  CHECK(wrong(r, [](auto& x) { x.images.count = 2; }) == "page_data: blocks.0.attn at step 3 holds 16 numbers, but matrices [2, 1, 4, 4] need 32");
  CHECK(wrong({}, [](auto&) {}) == "no error");  // no recorder, no images
}

TEST_CASE("base64 fills up what three bytes do not divide", "[recorder]") {
  CHECK(inspect::base64("abc", 3) == "YWJj");
  CHECK(inspect::base64("ab", 2) == "YWI=");
  CHECK(inspect::base64("a", 1) == "YQ==");
  CHECK(inspect::base64("", 0).empty());
}

TEST_CASE("a run that begins anew in its folder leaves no record of the one before", "[recorder]") {
  const auto data = tiny_data(232, 20);
  const fs::path run = fresh_folder("recorder-anew") / "run";
  const auto args = run_args(data, run, with(recorded, {"--steps", "1"}));
  REQUIRE(run_norma(args).code == 0);
  for (const auto& entry : fs::directory_iterator(run))
    if (entry.is_regular_file()) fs::remove(entry.path());
  fs::copy_file(run / "record" / "step-000000000.safetensors", run / "record" / "step-000000900.safetensors");
  REQUIRE(run_norma(run_args(data, run, {"--steps", "1"})).code == 0);
  CHECK(!fs::exists(run / "record" / "step-000000900.safetensors"));
}

TEST_CASE("records of later steps are cut off, that of the step itself stays", "[recorder]") {
  const fs::path run = fresh_folder("recorder-cut");
  const inspect::ProbeImages image{1, 1, 1, 1, {7}, {"a"}, false};
  for (const Index step : {0, 4, 8}) train::write_record(run, step, image, {{"blocks.0.attn", ones({1, 1, 1, 1})}});
  train::cut_records(run, 4);
  CHECK(train::recorded_steps(run) == std::vector<Index>{0, 4});
}
