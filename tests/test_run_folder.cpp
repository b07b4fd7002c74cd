// What a run's folder holds when it is resumed, read or damaged: all is checked before anything in it is changed.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <thread>

#include "tests/alarms.h"
#include "tests/errors.h"
#include "tests/program.h"
#include "tests/written_run.h"
#include "train/loop.h"
#include "train/metrics_tail.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

/// 8 steps an epoch, a checkpoint every 4.
std::vector<std::string> args_of(const fs::path& data, const fs::path& out, const std::vector<std::string>& more) {
  return with({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--epochs", "2",
               "--log-every", "3", "--checkpoint-every", "4", "--out", out.string()}, more);
}

std::map<std::string, std::string> files_of(const fs::path& run) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(run))
    if (entry.is_regular_file()) all[fs::relative(entry.path(), run).string()] = contents(entry.path());
  return all;
}

Json json_of(const fs::path& file) { return Json::parse(contents(file)); }

/// Ten steps of such a run in this process.
train::TrainConfig config_of(const fs::path& out) {
  train::TrainConfig config;
  config.data_dir = tiny_data(64, 20).string(), config.out = out.string();
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14, config.batch = 8, config.epochs = 2, config.checkpoint_every = 4, config.steps = 10;
  return config;
}

}  // namespace

TEST_CASE("a run that goes on records what it goes on with, and has no summary until it ends again", "[run_folder]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("goes-on"), out = runs / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  CHECK(json_of(out / "config.json")["steps"] == 6);
  CHECK(json_of(out / "summary.json")["steps"] == 6);

  const std::vector<std::string> changes = {"--steps", "10", "--threads", "1", "--checkpoint-every", "5", "--record", "blocks.0.attn", "--record-images", "2", "--resume"};
  Finished f = run_norma(args_of(data, out, changes));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const Json config = json_of(out / "config.json");
  CHECK(config["steps"] == 10);
  CHECK(config["threads"] == 1);
  CHECK(config["checkpoint_every"] == 5);
  CHECK(config["record"] == "blocks.0.attn");
  CHECK(config["record_images"] == 2);
  CHECK(json_of(out / "summary.json")["steps"] == 10);

  // What has its end behind it does not take on what it would have been run with.
  f = run_norma(args_of(data, out, {"--steps", "7", "--resume"}));
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains("resumed from step 10 of 7: nothing is left to train\n"));
  CHECK(json_of(out / "config.json") == config);
  CHECK(json_of(out / "summary.json")["steps"] == 10);

  // A moved folder records where it is. One that fails on its way has no summary of before.
  const auto moved = runs / "moved";
  fs::rename(out, moved);
  CHECK(Program(args_of(data, moved, {"--resume"}), ".", 4000).wait().code == 1);  // as on a full disk
  CHECK(!fs::exists(moved / "summary.json"));
  CHECK(std::count_if(fs::directory_iterator(moved), {}, [](const auto& entry) { return train::is_event_file(entry.path().filename().string()); }) == 1);  // of before
  CHECK(json_of(moved / "config.json")["out"] == moved.string());
  CHECK(json_of(moved / "config.json")["steps"] == 0);
  CHECK(run_norma(args_of(data, moved, {"--resume"})).code == 0);
  CHECK(json_of(moved / "summary.json")["steps"] == 16);
}

TEST_CASE("a damaged status.json is made again, and keeps nobody from going on or reading", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("status") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  const auto [text, why] = GENERATE(std::pair{"{\"step\": 6, \"end", "JSON error at byte 16"}, std::pair{"", "JSON error at byte 0"},
                                    std::pair{R"({"step": 6, "ending": 3, "seconds": 1})", "\"ending\" is 3, it must be a text"});
  write(out / "status.json", text);
  Finished f = run_norma({"report", out.string()});
  CAPTURE(f.err);
  CHECK(f.code == 0);
  CHECK_THAT(f.err, Contains((out / "status.json").string() + ": " + why) && EndsWith("; left out\n"));
  CHECK(run_norma({"compare", out.string(), "--html", (out / "page.html").string()}).code == 0);
  f = run_norma(args_of(data, out, {"--resume"}));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains((out / "status.json").string() + ": " + why) && Contains("; it is made again, with the seconds from here on\nresumed from step 6\n"));
  CHECK(json_of(out / "status.json")["ending"] == "finished");
}

TEST_CASE("what cannot be resumed is left as it was", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("as-it-was") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  const fs::path metrics = out / "metrics.jsonl";
  const std::string log = contents(metrics), name = metrics.string();
  const auto line = [&](std::size_t n) {  // its first byte
    std::size_t at = 0;
    while (n-- > 0) at = log.find('\n', at) + 1;
    return at;
  };
  const std::string remedy = "put it back whole, or begin anew with another --out\n";
  std::string expected;
  SECTION("a line that is no JSON") {
    write(metrics, std::string(log).replace(line(1), 3, "x\"s"));
    expected = name + ":2: JSON error at byte 0";
  }
  SECTION("lines out of order") {
    const std::string second = log.substr(line(1), line(2) - line(1));
    write(metrics, second + log.substr(0, line(1)) + log.substr(line(2)));
    expected = name + ":2: step 0 stands behind step 3, which no run writes; the checkpoint of step 6 is of after this line, so the file was changed: " + remedy;
  }
  SECTION("another length of its lines") {
    write(metrics, std::string(log).insert(log.find("\"loss\":") + 7, " "));
    expected = "so it was changed: " + remedy;
  }
  SECTION("another digit in a line") {
    std::string other = log;
    char& digit = other[log.find("\"loss\":") + 7];
    digit = digit == '1' ? '2' : '1';
    write(metrics, other);
    expected = fmt::format("{}: its first {} bytes have another checksum than when the checkpoint of step 6 was made, so it was changed: {}", name,
                           log.rfind('\n', log.size() - 2) + 1, remedy);
  }
  SECTION("cut") {
    write(metrics, log.substr(0, 20));
    expected = name + ": has 20 bytes, the checkpoint of step 6 was made when it had ";
  }
  REQUIRE(!expected.empty());
  write(out / "status.json", "damaged too");
  const auto before = files_of(out);
  const Finished f = run_norma(args_of(data, out, {"--resume"}));
  CAPTURE(f.err);
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains(expected));
  CHECK((files_of(out) == before));
}

TEST_CASE("a folder where a run has a file, or a file where it has a folder, is named by all that reads or writes it", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("kinds") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  struct Case { std::string name; bool folder; };
  const auto [name, folder] = GENERATE(Case{"config.json", true}, Case{"metrics.jsonl", true}, Case{"status.json", true}, Case{"summary.json", true},
                                       Case{"checkpoint-000000006.safetensors", true}, Case{"events.out.tfevents.1.norma", true}, Case{"record", false});
  const fs::path at = out / name;
  fs::remove(at);
  if (folder) {
    fs::create_directory(at);
    write(at / "something", "x");
  } else {
    write(at, "x");
  }
  const auto before = files_of(out);
  const std::string text = fmt::format("norma: {}: is a {}, where a run has a {}; move it away, or name another run folder\n", at.string(), folder ? "folder" : "file",
                                       folder ? "file" : "folder");
  for (const auto& args : std::vector<std::vector<std::string>>{args_of(data, out, {}), args_of(data, out, {"--resume"}), {"report", out.string()},
                                                                {"compare", out.string()}, {"eval", out.string()}, {"watch", out.string()}}) {
    const Finished f = run_norma(args);
    CAPTURE(args);
    CHECK(f.code == 1);
    CHECK_THAT(f.err, EndsWith(text));
  }
  CHECK((files_of(out) == before));
}

TEST_CASE("a run folder that is a file is called one", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("file") / "a";
  write(out, "x");
  const Finished f = run_norma(args_of(data, out, {}));
  CHECK(f.code == 1);
  CHECK_THAT(f.err, EndsWith(fmt::format("norma: run folder {}: is a file; choose another with --out\n", out.string())));
}

TEST_CASE("a checkpoint from before the first line of the log is gone on from", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("no-line") / "a";
  const std::vector<std::string> bad = {"--attention", "1e20x^8", "--init-std", "1e4"};
  REQUIRE(run_norma(args_of(data, out, with(bad, {"--anomaly"}))).code == 3);
  REQUIRE(fs::exists(out / "checkpoint-000000000.safetensors"));
  REQUIRE(!fs::exists(out / "metrics.jsonl"));
  const Finished f = run_norma(args_of(data, out, with(bad, {"--resume"})));
  CAPTURE(f.err);
  CHECK(f.code == 3);
  CHECK_THAT(f.err, Contains("resumed from step 0\n") && Contains("step skipped (10 of 10)"));
}

TEST_CASE("fewer images than a data set has are told", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("images") / "a";
  const std::string notice = fmt::format("data set \"fashion-mnist\" in {}: 64 training and 20 test images, of 60000 and 10000\n", (data / "fashion-mnist").string());
  CHECK_THAT(run_norma(args_of(data, out, {"--steps", "1"})).err, Contains(notice));
  CHECK_THAT(run_norma({"eval", out.string()}).err, Contains(notice));
}

TEST_CASE("a checkpoint that is ahead of the log is passed over, and the run ends with the same log", "[run_folder]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("ahead"), out = runs / "a";
  REQUIRE(run_norma(args_of(data, runs / "calm", {})).code == 0);
  REQUIRE(run_norma(args_of(data, out, {"--steps", "7"})).code == 0);
  fs::resize_file(out / "metrics.jsonl", fs::file_size(out / "metrics.jsonl") - 10);
  const Finished f = run_norma(args_of(data, out, {"--resume"}));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains("the checkpoint of step 7 was made when it had") && Contains("trying the checkpoint before it") && Contains("resumed from step 4\n"));
  CHECK(contents(out / "metrics.jsonl") == contents(runs / "calm" / "metrics.jsonl"));
}

TEST_CASE("--resume of a run whose checkpoints are gone does not throw its log away", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("gone") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  for (const fs::path& checkpoint : train::checkpoints(out)) fs::remove(checkpoint);
  const auto refused = [&](const std::string& why) {
    const auto before = files_of(out);
    const Finished f = run_norma(args_of(data, out, {"--resume"}));
    CHECK(f.code == 1);
    CHECK_THAT(f.err, Contains(why + ", but holds no checkpoint to go on from"));
    CHECK((files_of(out) == before));
  };
  refused("has ended (summary.json)");
  fs::remove(out / "summary.json");
  refused("has ended (finished)");
  write(out / "status.json", R"({"step": 6, "ending": "", "seconds": 1.0})");  // as of a run that was killed
  refused("has made a checkpoint of step 6 (status.json)");
  const std::string config = contents(out / "config.json");
  write(out / "config.json", replaced(config, "\"checkpoint_every\": 4", "\"checkpoint_every\": 0"));
  refused("has made a checkpoint of step 6 (status.json)");
  fs::remove(out / "config.json");
  refused("has made a checkpoint of step 6 (status.json)");
  fs::remove(out / "status.json");
  refused("has a log and no config.json");
  write(out / "config.json", config);
  refused("has made step 5");  // a checkpoint was due at 4
  const std::string log = contents(out / "metrics.jsonl");
  write(out / "metrics.jsonl", log.substr(0, log.find('\n') + 1));
  const Finished other = run_norma(args_of(data, out, {"--resume", "--lr", "0.5"}));
  CHECK(other.code == 2);
  CHECK_THAT(other.err, Contains("the run was begun with another configuration:\n  lr: 0.001 before, 0.5 now\n"));
  CHECK(run_norma(args_of(data, out, {"--resume", "--steps", "6"})).code == 0);
  CHECK(contents(out / "metrics.jsonl") == log);
}

TEST_CASE("the log of a run that was killed before its first checkpoint is not written over", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("killed-early") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "2"})).code == 0);
  for (const fs::path& checkpoint : train::checkpoints(out)) fs::remove(checkpoint);
  fs::remove(out / "summary.json");
  write(out / "status.json", R"({"step": 2, "ending": "", "seconds": 1.0})");
  const auto before = files_of(out);
  CHECK(run_norma(args_of(data, out, {})).code == 1);
  CHECK((files_of(out) == before));
}

TEST_CASE("checkpoints are known by their names and ordered by their steps", "[run_folder]") {
  const auto out = fresh_folder("names");
  for (const char* name : {"checkpoint-keep.safetensors", "checkpoint-12.safetensors", "checkpoint-0000000001.safetensors",
                           "checkpoint-1000000000.safetensors", "checkpoint-999999999.safetensors"}) write(out / name, "x");
  CHECK((train::checkpoints(out) == std::vector<fs::path>{out / "checkpoint-999999999.safetensors", out / "checkpoint-1000000000.safetensors"}));
  CHECK_THROWS_WITH(train::RunFolder(out, train::RunFolder::IfOccupied::fail_suggest_resume), Contains("already holds a run"));  // nothing but checkpoints
}

TEST_CASE("no checkpoint is made that says another length of the log than it has", "[run_folder]") {
  const auto out = fresh_folder("length");
  train::RunFolder folder(out, train::RunFolder::IfOccupied::fail_suggest_resume);
  folder.log(train::Json::parse(good_row));
  fs::remove(out / "metrics.jsonl");
  fs::create_directory(out / "metrics.jsonl");
  CHECK_THROWS_WITH(folder.save({}, {}), Contains("metrics.jsonl: cannot be brought to the disk"));
  CHECK(train::checkpoints(out).empty());
  fs::remove(out / "metrics.jsonl");
  CHECK_THROWS_WITH(folder.log(train::Json::parse(good_row)), Contains("metrics.jsonl: has 0 bytes, and this run has written ") && Contains("removed or cut meanwhile"));
  CHECK(!fs::exists(out / "metrics.jsonl"));
  write(out / "metrics.jsonl", "cut");
  CHECK_THROWS_WITH(folder.save({}, {}), Contains("metrics.jsonl: has 3 bytes, and this run has written "));
  CHECK(train::checkpoints(out).empty());
}

TEST_CASE("a status that cannot be written is told once", "[run_folder]") {
  const auto out = fresh_folder("no-status");
  std::vector<std::string> told;
  train::RunFolder folder(out, train::RunFolder::IfOccupied::fail_suggest_resume, [&](const std::string& m) { told.push_back(m); });
  fs::create_directory(out / "status.json");
  for (int i = 0; i < 2; ++i) folder.write_status({}, "", 0, 5);
  REQUIRE(told.size() == 1);
  CHECK_THAT(told[0], Contains("status.json: is a folder") && EndsWith("; the run goes on, and its status is that of before"));
}

TEST_CASE("a checkpoint that cannot be saved is told, and the next is saved when it is due", "[run_folder]") {
  const auto out = fresh_folder("no-checkpoint") / "a";
  const train::TrainConfig config = config_of(out);
  std::vector<std::string> told;
  train::Watcher watcher;
  watcher.message = [&](const std::string& m) { told.push_back(m); };
  watcher.progress = [&](const train::Progress& p) {
    if (p.step == 2) fs::create_directories(out / "checkpoint-000000004.safetensors");
  };
  CHECK(train::train(config, false, std::atomic<bool>{false}, watcher).ending == train::Ending::finished);
  CHECK(std::count_if(told.begin(), told.end(), [](const std::string& m) { return m.starts_with("step 4: no checkpoint: ") && m.ends_with("training goes on, and the next is tried when it is due"); }) == 1);
  CHECK((train::checkpoints(out) == std::vector<fs::path>{out / "checkpoint-000000008.safetensors", out / "checkpoint-000000010.safetensors"}));
}

TEST_CASE("a log that cannot grow ends the run with a checkpoint, and --resume goes on with the line that is missing", "[run_folder]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("full-log"), out = runs / "a";
  const std::vector<std::string> each = {"--log-every", "1", "--checkpoint-every", "1000", "--optimizer", "sgd", "--epochs", "4"};
  REQUIRE(run_norma(args_of(data, runs / "calm", each)).code == 0);
  const auto checkpoint = fs::file_size(runs / "calm" / "checkpoint-000000032.safetensors"), log = fs::file_size(runs / "calm" / "metrics.jsonl");
  const std::uintmax_t limit = 2 * checkpoint;  // so that it may hold a line too
  CAPTURE(checkpoint, log);
  REQUIRE(log > limit);
  Finished f = Program(args_of(data, out, each), ".", limit).wait();
  CAPTURE(f.err);
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("the run goes on without an event file") && Contains((out / "metrics.jsonl").string()));
  CHECK_THAT(f.err, Contains(" bytes written (file too large)") && !Contains("no space left"));  // what it was, behind a part that was written
  CHECK(contents(out / "metrics.jsonl").ends_with("\n"));
  REQUIRE(train::checkpoints(out).size() == 1);
  f = run_norma(args_of(data, out, with(each, {"--resume"})));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains("resumed from step "));
  CHECK(contents(out / "metrics.jsonl") == contents(runs / "calm" / "metrics.jsonl"));
  CHECK(contents(out / "checkpoint-000000032.safetensors") == contents(runs / "calm" / "checkpoint-000000032.safetensors"));
}

TEST_CASE("a checkpoint is evaluated without a log; a wrong field of a run's config.json is the file's fault", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("no-log") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "6"})).code == 0);
  fs::remove(out / "metrics.jsonl");
  CHECK(run_norma({"eval", out.string()}).code == 0);
  write(out / "config.json", replaced(contents(out / "config.json"), "\"penalty\"", "\"penalti\""));
  const Finished f = run_norma({"eval", out.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("unknown key \"penalti\""));
}

TEST_CASE("what the system does not tell about a folder is an error with its name", "[run_folder]") {
  const fs::path out = fresh_folder("untold") / std::string(300, 'a');  // too long for a name
  CHECK_THROWS_AS(train::read_run(out), Error);
  CHECK_THROWS_WITH(train::read_run(out), Contains("aaa: cannot be looked at (file name too long)"));
  CHECK_THROWS_AS(train::MetricsTail(out / "metrics.jsonl").read(), Error);
  CHECK_THROWS_WITH(train::checkpoints(out), Contains("aaa: cannot be listed (file name too long)"));
  CHECK_THROWS_WITH(train::check_kinds(out), Contains("aaa: cannot be listed (file name too long)"));
}

TEST_CASE("a run whose folder is moved, removed or replaced ends, and writes nothing into what is there then", "[run_folder]") {
  const auto runs = fresh_folder("moved"), out = runs / "a", moved = runs / "b";
  const auto change = GENERATE(as<std::string>(), "moved", "removed", "replaced");
  std::map<std::string, std::string> others;
  train::Watcher watcher;
  watcher.progress = [&](const train::Progress& p) {
    if (p.step != 7) return;
    change == "removed" ? static_cast<void>(fs::remove_all(out)) : fs::rename(out, moved);
    if (change == "replaced") {
      fs::create_directory(out);
      for (const char* name : {"metrics.jsonl", "status.json", "checkpoint-000000001.safetensors", "checkpoint-000000002.safetensors"}) write(out / name, "another's");
      others = files_of(out);
    }
  };
  train::TrainConfig config = config_of(out);
  config.record = "blocks.0.attn", config.record_images = 2, config.record_every = 1, config.log_every = 1;
  const std::string where = change == "removed" ? "was removed or replaced" : "was moved to " + fs::absolute(moved).string();
  CHECK_THROWS_WITH(train::train(config, false, std::atomic<bool>{false}, watcher), Contains("run folder " + out.string() + ": " + where + " while it was trained into"));
  CHECK(fs::exists(out) == (change == "replaced"));
  if (change == "replaced") CHECK((files_of(out) == others));
  if (change == "removed") return;
  REQUIRE((train::checkpoints(moved) == std::vector<fs::path>{moved / "checkpoint-000000004.safetensors"}));
  config.out = moved.string();
  watcher.progress = [](const train::Progress&) {};
  CHECK(train::train(config, true, std::atomic<bool>{false}, watcher).step == 10);
}

TEST_CASE("a run whose folder is moved while a checkpoint is written ends, and does not say that it goes on", "[run_folder]") {
  const auto runs = fresh_folder("moved-meanwhile"), out = runs / "a";
  train::TrainConfig config = config_of(out);
  config.width = 96, config.depth = 4, config.checkpoint_every = 1;
  std::atomic<bool> over{false};
  std::thread mover([&] {
    for (std::error_code error; !over;)
      for (const auto& entry : fs::directory_iterator(out, error))
        if (entry.path().filename().string().starts_with(".checkpoint-")) return fs::rename(out, runs / "b", error);
  });
  train::Watcher watcher;
  std::string told;
  watcher.message = [&](const std::string& m) { told += m + "\n"; };
  CHECK_THROWS_WITH(train::train(config, false, std::atomic<bool>{false}, watcher), Contains("was moved to ") && Contains("so training ends"));
  over = true, mover.join();
  CHECK_THAT(told, !Contains("goes on"));
}

TEST_CASE("nothing of a run is written by its path when another folder is there", "[run_folder]") {
  const auto runs = fresh_folder("other-folder"), out = runs / "a";
  train::RunFolder folder(out, train::RunFolder::IfOccupied::fail);
  folder.log(train::Json::parse(good_row));
  fs::rename(out, runs / "b");
  fs::create_directory(out);
  const std::string why = "was moved to ";
  CHECK_THROWS_WITH(folder.log(train::Json::parse(good_row)), Contains(why));
  CHECK_THROWS_WITH(folder.save({}, {}), Contains(why));
  CHECK_THROWS_WITH(folder.write_config({}), Contains(why));
  CHECK_THROWS_WITH(folder.write_summary({}), Contains(why));
  CHECK_THROWS_WITH(folder.remove_summary(), Contains(why));
  CHECK_THROWS_WITH(folder.write_status({}, "", 0, 5), Contains(why));
  CHECK_THROWS_WITH(folder.rewind_metrics({}, {}), Contains(why));
  CHECK_THROWS_WITH(folder.begin_again(), Contains(why));
  CHECK_THROWS_WITH(folder.path(), Contains(why));
  CHECK(fs::is_empty(out));
  fs::remove(out);
  fs::create_directory_symlink("b", out);  // the same folder by another way
  CHECK_NOTHROW(folder.write_status({}, "", 0, 5));
}

TEST_CASE("a folder that cannot be held is not trained into", "[run_folder]") {
  const fs::path none = fresh_folder("not-held") / "none";
  CHECK_THROWS_WITH(train::FolderLock(none), Contains(none.string() + ": cannot be opened to read (no such file or directory)"));
}

TEST_CASE("a run whose first checkpoint could not be written begins again", "[run_folder]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("no-first"), out = runs / "a";
  const std::vector<std::string> each = {"--log-every", "1", "--checkpoint-every", "1", "--epochs", "4"};
  REQUIRE(run_norma(args_of(data, runs / "calm", each)).code == 0);
  const auto limit = fs::file_size(runs / "calm" / "checkpoint-000000032.safetensors") / 4 * 3;
  REQUIRE(fs::file_size(runs / "calm" / "metrics.jsonl") > limit);
  Finished f = Program(args_of(data, out, each), ".", limit).wait();
  CAPTURE(f.err);
  REQUIRE(f.code == 1);
  CHECK_THAT(f.err, Contains("; there is none before it: --resume begins again\n") && !Contains("goes on from the one before it"));
  f = run_norma(args_of(data, out, with(each, {"--resume"})));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.err, Contains("starting from step 0\n"));
  CHECK(contents(out / "metrics.jsonl") == contents(runs / "calm" / "metrics.jsonl"));
}

TEST_CASE("a damaged checkpoint that was passed over does not take the place of a whole one", "[run_folder]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("passed-over") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "7"})).code == 0);
  fs::resize_file(out / "checkpoint-000000007.safetensors", 100);
  for (int again = 0; again < 2; ++again) {  // nothing is left to train then, and the newest is written once more
    REQUIRE(run_norma(args_of(data, out, {"--steps", "5", "--resume"})).code == 0);
    CHECK((train::checkpoints(out) == std::vector<fs::path>{out / "checkpoint-000000004.safetensors", out / "checkpoint-000000005.safetensors"}));
  }
}

TEST_CASE("a checkpoint that was given another step's name is not loaded", "[run_folder]") {
  const auto out = fresh_folder("renamed");
  train::RunFolder(out, train::RunFolder::IfOccupied::fail).save({.step = 3, .config = {}, .data_hash = {}, .test_hash = {}, .instructions = {}, .last_row = {}, .unwritten_row = {}}, {});
  const fs::path right = out / "checkpoint-000000003.safetensors", wrong = out / "checkpoint-000000005.safetensors";
  CHECK(train::RunFolder::load_checkpoint(right).first.step == 3);
  fs::copy_file(right, out / "kept.safetensors");
  CHECK(train::RunFolder::load_checkpoint(out / "kept.safetensors").first.step == 3);
  fs::rename(right, wrong);
  CHECK_THROWS_WITH(train::RunFolder::load_checkpoint(wrong),
                    Equals(wrong.string() + ": is the checkpoint of step 3, so it was renamed; its name is checkpoint-000000003.safetensors"));
}

TEST_CASE("a signal does not cut a line of the log", "[run_folder]") {
  const auto out = fresh_folder("signal");
  train::RunFolder folder(out, train::RunFolder::IfOccupied::fail);
  train::Json row = train::Json::parse(good_row);
  row["long"] = std::string(300'000, 'x');  // more than a pipe holds, so that writing waits, and a signal finds it waiting
  const fs::path pipe = out / "metrics.jsonl";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::string read;
  std::thread reader([&] {
    Alarms::spare_this_thread();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until then opening waits too
    std::ifstream in(pipe);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    read.assign(std::istreambuf_iterator<char>(in), {});
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::string told;
  {
    const Alarms alarms;
    told = error_of([&] { folder.log(row); });
  }
  if (told != "no error") std::ofstream{pipe};  // the reader waits for somebody
  reader.join();
  CHECK(told == "no error");
  CHECK((read == row.dump() + "\n"));
}
