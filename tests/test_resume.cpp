// The same seed gives the same bits: with any number of threads, and whatever happened on the way. Whole files are compared: the last
// checkpoint holds every weight, both moments, the step and the length of the log.
#include <catch2/catch.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>

#include "tests/program.h"
#include "tests/written_run.h"
#include "train/learner.h"
#include "train/loop.h"
#include "train/run_folder.h"
#include "train/safetensors.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;

namespace {

std::vector<std::string> run_args(const std::filesystem::path& data, const std::filesystem::path& out, const std::string& attention) {
  return small_run(data, out, {"--epochs", "4", "--dropout", "0.1", "--drop-path", "0.1", "--ema", "0.9", "--attention", attention, "--checkpoint-every", "5", "--log-every", "3"});
}
constexpr const char* last = "checkpoint-000000056.safetensors";  // 4 epochs of 14 batches

struct Bits {
  std::string weights, log;
  bool operator==(const Bits&) const = default;
};
Bits bits(const std::filesystem::path& run) { return {contents(run / last), contents(run / "metrics.jsonl")}; }

}  // namespace

TEST_CASE("a whole run has the same bits with 1, 2, 3, 8 and 20 threads", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("threads");
  for (const std::string attention : {"softmax", "x^3/sqrt(N)"}) {
    Bits first;
    for (const char* threads : {"1", "2", "3", "8", "20"}) {
      const auto out = runs / fmt::format("{}-{}", attention == "softmax" ? "softmax" : "x3", threads);
      const Finished f = run_norma(with(run_args(data, out, attention), {"--threads", threads}));
      CAPTURE(attention, threads, f.err);
      REQUIRE(f.code == 0);
      if (first.weights.empty()) first = bits(out);
      REQUIRE(!first.weights.empty());
      CHECK((bits(out) == first));
    }
  }
}

TEST_CASE("in bf16 too: the same bits with any number of threads, and after a stop", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("bf16");
  const auto args = [&](const std::string& name) { return with(run_args(data, runs / name, "softmax"), {"--dtype", "bf16"}); };
  REQUIRE(run_norma(with(args("one"), {"--threads", "1"})).code == 0);
  REQUIRE(run_norma(with(args("three"), {"--threads", "3"})).code == 0);
  REQUIRE(!bits(runs / "one").weights.empty());
  CHECK((bits(runs / "three") == bits(runs / "one")));
  REQUIRE(run_norma(with(args("stopped"), {"--steps", "23"})).code == 0);
  REQUIRE(run_norma(with(args("stopped"), {"--resume"})).code == 0);
  CHECK((bits(runs / "stopped") == bits(runs / "one")));
  const Finished wrong = run_norma(with(run_args(data, runs / "one", "softmax"), {"--resume"}));
  CHECK(wrong.code == 2);
  CHECK_THAT(wrong.err, Contains("dtype"));
}

TEST_CASE("killed at random moments and resumed, a run ends with the bits of one that was left alone", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("kill");
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_norma(run_args(data, runs / "calm", "x^3/sqrt(N)")).code == 0);
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (std::uint64_t round = 0; round < 3; ++round) {
    const auto out = runs / fmt::format("killed-{}", round);
    CHECK(kill_until_finished(with(run_args(data, out, "x^3/sqrt(N)"), {"--resume"}), out, whole, {2024, round}) > 0);
    CHECK((bits(out) == bits(runs / "calm")));
  }
}

TEST_CASE("a signal finishes the step, writes a checkpoint and exits with 128 and its number; resuming completes the run", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("interrupt");
  REQUIRE(run_norma(run_args(data, runs / "calm", "softmax")).code == 0);
  for (const auto& [signal, code] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {  // Ctrl-C, and what ends a service
    const auto cut = runs / std::to_string(code);
    Program p(with(run_args(data, cut, "softmax"), {"--checkpoint-every", "0"}));
    while (!std::filesystem::exists(cut / "metrics.jsonl")) ::usleep(100);
    p.signal(signal);
    const Finished f = p.wait();
    CAPTURE(f.err);
    REQUIRE(f.code == code);
    CHECK_THAT(f.err, Contains("interrupted; a checkpoint is in"));
    REQUIRE(run_norma(with(run_args(data, cut, "softmax"), {"--resume"})).code == 0);
    CHECK((bits(cut) == bits(runs / "calm")));
  }
}

TEST_CASE("stopped within an evaluation, a run makes it again and ends with the same bits; its seconds are those of all sessions", "[resume]") {
  train::TrainConfig config;
  config.data_dir = tiny_data(232, 600).string();  // three batches to test
  config.width = 16, config.depth = 1, config.heads = 2, config.patch = 7, config.batch = 16, config.epochs = 4, config.log_every = 3;
  const auto runs = fresh_folder("evaluation");
  const auto train = [&](const char* name, bool resume, int stop_at) {  // at that call of `testing`, three and one an evaluation; 0: never
    std::atomic<bool> stop{false};
    train::Watcher watcher;
    watcher.testing = [&](Index, Index images) {
      CHECK(images == 600);
      if (--stop_at == 0) stop = true;
    };
    config.out = (runs / name).string();
    return train::train(config, resume, stop, watcher);
  };
  CHECK(train("calm", false, 0).ending == train::Ending::finished);
  double seconds = 0;
  const auto stopped = [&](bool resume, int stop_at) {
    CHECK(train("cut", resume, stop_at).ending == train::Ending::interrupted);
    const train::RunStatus status = train::read_status(runs / "cut");
    CHECK(status.ending == "interrupted");
    CHECK(status.seconds >= seconds);  // as much where it was stopped again before it trained
    CHECK(status.seconds > 0);
    seconds = status.seconds;
    CHECK(!std::filesystem::exists(runs / "cut" / "summary.json"));
  };
  stopped(false, 2);   // the first epoch's
  stopped(true, 3);    // again
  const double first = seconds;
  stopped(true, 10);   // first and second whole, the third's second batch
  CHECK(seconds > first);
  stopped(true, 6);    // the fourth's, the last
  CHECK(train("cut", true, 0).ending == train::Ending::finished);
  CHECK((bits(runs / "cut") == bits(runs / "calm")));
  CHECK(train::read_status(runs / "cut").ending == "finished");
  const train::Json summary = train::read_run(runs / "cut").summary;
  CHECK(summary["seconds"].get<double>() >= seconds);
  CHECK(train("cut", true, 0).ending == train::Ending::finished);  // nothing left to train
  for (const char* field : {"seconds", "test_loss", "test_accuracy"}) CHECK(train::read_run(runs / "cut").summary[field] == summary[field]);
}

TEST_CASE("--steps stops early and a later resume goes on to the same bits", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("steps");
  REQUIRE(run_norma(run_args(data, runs / "calm", "softmax")).code == 0);
  REQUIRE(run_norma(with(run_args(data, runs / "parts", "softmax"), {"--steps", "17"})).code == 0);
  CHECK_THAT(contents(runs / "parts" / "metrics.jsonl"), Contains("{\"step\":16,"));  // where it stands, though only each third is logged
  REQUIRE(run_norma(with(run_args(data, runs / "parts", "softmax"), {"--steps", "40", "--resume"})).code == 0);
  REQUIRE(run_norma(with(run_args(data, runs / "parts", "softmax"), {"--resume"})).code == 0);
  CHECK((bits(runs / "parts") == bits(runs / "calm")));
}

TEST_CASE("a run that ended between two lines keeps its last one, also where it was killed before that line was written", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("last-line");
  const auto args = with(run_args(data, runs / "a", "softmax"), {"--steps", "12"});  // logged are 0, 3, 6, 9, and 11 as the last
  REQUIRE(run_norma(args).code == 0);
  const std::string log = contents(runs / "a" / "metrics.jsonl");
  REQUIRE_THAT(log, Contains("\"step\":11,"));
  SECTION("complete") {}
  SECTION("killed behind the checkpoint") { std::filesystem::resize_file(runs / "a" / "metrics.jsonl", log.rfind("{\"step\":11,")); }
  REQUIRE(run_norma(with(args, {"--resume"})).code == 0);
  CHECK(contents(runs / "a" / "metrics.jsonl") == log);
}

TEST_CASE("what a killed process left half-written is removed; what others write is not", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("unfinished");
  const auto args = with(run_args(data, runs / "a", "softmax"), {"--steps", "2", "--resume"});
  std::filesystem::create_directories(runs / "a" / "record");
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  REQUIRE(::waitpid(gone, nullptr, 0) == gone);
  const std::vector<std::string> own = {".checkpoint-000000005.safetensors.1-2.tmp", ".status.json.1-3.tmp", "record/.step-000000003.safetensors.1-4.tmp", ".anomaly-3.json.1-5.tmp",
                                        fmt::format(".report.html.{}-0.tmp", gone), fmt::format(".inspect-3-initial.html.{}-12.tmp", gone)};
  for (const std::string& name : with(own, {".report.html.1-0.tmp"})) std::ofstream(runs / "a" / name) << "half";
  REQUIRE(run_norma(args).code == 0);
  for (const std::string& name : own) CHECK(!std::filesystem::exists(runs / "a" / name));
  CHECK(std::filesystem::exists(runs / "a" / ".report.html.1-0.tmp"));
}

TEST_CASE("resuming refuses another configuration and another data set, and says what differs", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("other");
  REQUIRE(run_norma(with(run_args(data, runs / "a", "softmax"), {"--steps", "6"})).code == 0);
  Finished f = run_norma(with(run_args(data, runs / "a", "softmax"), {"--resume", "--lr", "0.5"}));
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("another configuration:\n  lr: 0.001 before, 0.5 now\n"
                             "to go on as it began, leave these flags out and give --config " + (runs / "a" / "config.json").string() + "\n"));
  f = run_norma({"train", "vit", "--config", (runs / "a" / "config.json").string(), "--steps", "8", "--resume"});
  CAPTURE(f.err);
  CHECK(f.code == 0);
  CHECK_THAT(f.err, Contains("resumed from step 6"));
  const auto other = tiny_data(240, 20);
  f = run_norma(with(run_args(other, runs / "a", "softmax"), {"--resume"}));
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("data set"));
  f = run_norma(with(run_args(tiny_data(232, 21), runs / "a", "softmax"), {"--resume"}));
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("norma: --resume: the checkpoint was made with test images "));
  std::filesystem::resize_file(runs / "a" / "metrics.jsonl", 10);
  f = run_norma(with(run_args(data, runs / "a", "softmax"), {"--resume"}));
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("its end is lost; put the file back whole, or begin anew with another --out"));
}

TEST_CASE("a run goes on when its attention function is spelled in another way", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("spelled");
  REQUIRE(run_norma(with(run_args(data, runs / "a", "x³/√N"), {"--steps", "6"})).code == 0);
  const Finished other = run_norma(with(run_args(data, runs / "a", "x^2/sqrt(N)"), {"--resume", "--steps", "8"}));
  CHECK(other.code == 2);
  CHECK_THAT(other.err, Contains("attention: \"x³/√N\" before, \"x^2/sqrt(N)\" now"));
  const Finished f = run_norma(with(run_args(data, runs / "a", "x^3/sqrt(N)"), {"--resume", "--steps", "8"}));
  CAPTURE(f.err);
  CHECK(f.code == 0);
  CHECK_THAT(f.err, Contains("resumed from step 6"));
}

TEST_CASE("a damaged checkpoint is noticed, and the one before it is used", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("damaged");
  REQUIRE(run_norma(run_args(data, runs / "calm", "softmax")).code == 0);
  REQUIRE(run_norma(with(run_args(data, runs / "a", "softmax"), {"--steps", "12"})).code == 0);
  const auto newest = runs / "a" / "checkpoint-000000012.safetensors";
  REQUIRE(std::filesystem::exists(newest));
  SECTION("cut") { std::filesystem::resize_file(newest, std::filesystem::file_size(newest) / 2); }
  SECTION("one bit") {
    std::string bytes = contents(newest);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
    FILE* f = std::fopen(newest.c_str(), "wb");
    REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size());
    std::fclose(f);
  }
  const Finished f = run_norma(with(run_args(data, runs / "a", "softmax"), {"--resume"}));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains("trying the checkpoint before it") && Contains("resumed from step 10"));
  CHECK((bits(runs / "a") == bits(runs / "calm")));
}

TEST_CASE("a checkpoint whose step no run can have is refused", "[resume]") {
  const auto run = fresh_folder("state");
  const std::string state = R"({"step": 9223372036854775808, "skipped": 0, "skipped_in_a_row": 0, "metrics_bytes": 0, "config": "", "data_hash": ""})";
  train::write_safetensors(run / "checkpoint-000000001.safetensors", {{}, {{"format", "norma-run-1"}, {"state", state}}});
  CHECK_THROWS_WITH(train::RunFolder::load(run, [](const std::string&) {}), Contains("state has no whole number \"step\""));
}

TEST_CASE("a checkpoint of an earlier version goes on where what it lacks is at its default; threads may differ", "[resume]") {
  train::TrainConfig config;
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14, config.clip = 2;
  const models::ViTConfig shape = train::vit_config(config, 28, 1, 10);
  train::Learner run(config, shape, {DType::f32});
  const auto without = [&](const char* field) {
    train::RunState state = run.state;
    train::Json fields = train::Json::parse(state.config);
    REQUIRE(fields.erase(field) == 1);
    state.config = fields.dump();
    return state;
  };
  CHECK_NOTHROW(run.restore(without("penalty"), run.tensors()));
  train::RunState tested = run.state;
  run.state.test_hash = "here";
  CHECK_NOTHROW(run.restore(tested, run.tensors()));  // of before it was kept
  CHECK(run.state.test_hash == "here");
  tested.test_hash = "elsewhere";
  CHECK_THROWS_WITH(run.restore(tested, run.tensors()), Contains("made with test images elsewhere, these are here"));
  run.state.test_hash.clear();
  CHECK_THROWS_WITH(run.restore(without("clip"), run.tensors()), Contains("another configuration:\n  clip: absent before, 2.0 now\n"));
  const auto configured = [&](const std::string& text) {
    train::RunState state = run.state;
    state.config = text;
    return state;
  };
  const auto with_field = [&](const char* field, const train::Json& value) {
    train::Json fields = train::Json::parse(run.state.config);
    fields[field] = value;
    return configured(fields.dump());
  };
  CHECK_THROWS_WITH(run.restore(with_field("newer", 1), run.tensors()), Contains("\n  newer: 1 before, unknown to this version of norma\n"));
  CHECK_THROWS_WITH(run.restore(with_field("attention", 5), run.tensors()), Contains("\n  attention: 5 before, \"softmax\" now\n"));
  for (const std::string& text : {std::string(300000, '['), std::string("c")})
    CHECK_THROWS_WITH(run.restore(configured(text), run.tensors()), Contains("configuration in the checkpoint in " + config.out));
  CHECK_NOTHROW(run.restore(with_field("cpu", "avx2"), run.tensors()));
  config.threads = 3;
  CHECK_NOTHROW(train::Learner(config, shape, {DType::f32}).restore(run.state, run.tensors()));

  const auto folder = fresh_folder("earlier");  // evaluations were not counted: all were made
  const std::string state = R"({"step": 7, "skipped": 2, "skipped_in_a_row": 1, "metrics_bytes": 3, "config": "c", "data_hash": "h"})";
  train::write_safetensors(folder / "checkpoint-000000007.safetensors", {{}, {{"format", "norma-run-1"}, {"state", state}}});
  const auto found = train::RunFolder::load(folder, [](const std::string& m) { FAIL(m); });
  REQUIRE(found);
  const train::RunState& s = found->first;
  CHECK((s.step == 7 && s.skipped == 2 && s.skipped_in_a_row == 1 && s.metrics_bytes == 3 && s.tested == 7 && s.config == "c" && s.data_hash == "h" && s.last_row.empty()));
}

TEST_CASE("a run goes on with the fields that decide its bits as they were; each other may differ", "[resume]") {
  train::TrainConfig config;
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14;
  const train::Learner run(config, train::vit_config(config, 28, 1, 10), {DType::f32});
  const std::vector<std::string> may_differ = {"out", "data_dir", "threads", "steps", "checkpoint_every", "anomaly", "graph", "cpu", "record", "record_every", "record_images", "record_limit_mib"};
  const train::Json fields = train::to_json(config);
  std::size_t differed = 0;
  for (const auto& [field, value] : fields.items()) {
    CAPTURE(field);
    train::Json changed = fields;
    changed[field] = value.is_string() ? train::Json("x") : value.is_boolean() ? train::Json(!value.get<bool>()) : train::Json(value.get<double>() == 0 ? 1 : 0);
    const train::TrainConfig before = train::written_config(changed, "before");
    if (std::find(may_differ.begin(), may_differ.end(), field) != may_differ.end()) {
      CHECK_NOTHROW(run.check_begun(before));
      ++differed;
    } else {
      CHECK_THROWS_WITH(run.check_begun(before), Contains("another configuration:\n  " + field + ": "));
    }
  }
  CHECK(differed == may_differ.size());
}

TEST_CASE("a log longer than is read at a time has its checksum", "[resume]") {
  const auto out = fresh_folder("long-log");
  train::RunState state;
  {
    train::RunFolder folder(out, train::RunFolder::IfOccupied::fail);
    for (Index step = 0; step < 2; ++step) folder.log({{"step", step}, {"epoch", 0.0}, {"attention", {{{"place", "a"}, {"fro", std::vector<double>(40000, 0.5)}}}}});
    folder.save(state, {});
    REQUIRE(std::filesystem::file_size(out / "metrics.jsonl") > 1u << 18);
    state = train::RunFolder::load(out, [](const std::string& m) { FAIL(m); }, train::RunFolder::Log::needed)->first;
    CHECK(folder.rows_before(state).size() == 2);
  }
  std::string log = contents(out / "metrics.jsonl");
  log[log.size() - 10] = '6';  // a digit of one of the last numbers
  write(out / "metrics.jsonl", log);
  CHECK_THROWS_WITH(train::RunFolder(out, train::RunFolder::IfOccupied::resume).rows_before(state), Contains("have another checksum than when the checkpoint of step 0 was made"));
}

TEST_CASE("a checkpoint whose tensors have another dtype is refused", "[resume]") {
  train::TrainConfig config;
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14;
  train::Learner run(config, train::vit_config(config, 28, 1, 10), {DType::f32});
  nn::Named tensors = run.tensors();
  const auto other = [&](const std::string& beginning, DType dtype) {
    for (auto& [name, t] : tensors)
      if (name.starts_with(beginning)) t = zeros(t.shape(), {dtype});
  };
  other("optimizer/", DType::f64);
  CHECK_THROWS_WITH(run.restore(run.state, tensors), Contains("the checkpoint's optimizer/") && Contains("is f64, this run's is f32"));

  const auto folder = fresh_folder("dtype");
  other("model/head.weight", DType::i64);
  train::RunFolder(folder, train::RunFolder::IfOccupied::fail_suggest_resume).save(run.state, tensors);
  CHECK_THROWS_WITH(train::RunFolder::load(folder, [](const std::string&) {}), Contains("model/head.weight is i64, and parameters are floating"));
}

TEST_CASE("a checkpoint tells the instructions that computed it last", "[resume]") {
  const auto data = tiny_data(232, 20), runs = fresh_folder("instructions");
  const auto instructions = [&](const char* name, const std::vector<std::string>& flags) {
    REQUIRE(run_norma(with(run_args(data, runs / name, "softmax"), flags)).code == 0);
    const auto found = train::RunFolder::load(runs / name, [](const std::string& m) { FAIL(m); });
    REQUIRE(found);
    return found->first.instructions;
  };
  const std::string here = instructions("alone", {"--steps", "1"});
  CHECK(instructions("resumed", {"--steps", "2", "--cpu", "base"}) == "base");
  CHECK(instructions("resumed", {"--steps", "4", "--resume"}) == here);
}
