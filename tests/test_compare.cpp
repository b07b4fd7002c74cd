// `norma compare`: its tables, and runs that differ in their seed alone.
#include <catch2/catch.hpp>

#include <cmath>

#include "tests/program.h"
#include "tests/written_run.h"
#include "train/config.h"
#include "train/run_folder.h"
#include "train/run_groups.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using train::Json;
namespace fs = std::filesystem;

namespace {

inspect::PageRun run_of(const std::string& name, const Json& changes, double accuracy = 0.5, const std::string& ending = "finished") {
  inspect::PageRun run;
  run.name = name, run.config = train::to_json({}), run.ending = ending;
  for (const auto& [field, value] : changes.items()) run.config[field] = value;
  if (ending == "finished") run.summary = {{"test_accuracy", accuracy}, {"test_loss", 1 - accuracy}};
  return run;
}

/// A finished run of two blocks whose last norms are 1.5 and 3, times `norm`. Its path is short, for tables that are as wide as they may be.
fs::path seeded_run(const std::string& name, int seed, const std::string& attention, double accuracy, double norm = 1) {
  const std::string blocks = fmt::format(R"({{"place": "blocks.0.attn.stats", "fro": [{}, {}]}}, {{"place": "blocks.1.attn.stats", "fro": [{}, {}]}})", norm, 2 * norm, 2 * norm, 4 * norm);
  const fs::path run = written_run(name, replaced(replaced(good_config, "\"seed\": 1", fmt::format("\"seed\": {}", seed)), "softmax", attention),
                                   replaced(good_row, R"({"place": "blocks.0.attn.stats", "fro": [1.0, 2.0]})", blocks) + "\n");
  write(run / "summary.json", fmt::format(R"({{"steps": 1, "tokens": 17, "test_loss": {}, "test_accuracy": {}, "seconds": 90.4}})", 1 - accuracy, accuracy));
  return fs::relative(run);
}

fs::path diverged_run(const std::string& name, int seed, const std::string& attention) {
  const fs::path run = seeded_run(name, seed, attention, 0.9);
  fs::remove(run / "summary.json");
  write(run / "status.json", R"({"step": 7, "ending": "diverged", "seconds": 12.0})");
  return run;
}

}  // namespace

TEST_CASE("runs are of one setting where nothing but the seed and what changes no outcome differs", "[compare]") {
  const std::vector<Json> same = {{{"seed", 2}}, {{"out", "x"}}, {{"data_dir", "x"}}, {{"preset", "small"}}, {{"threads", 3}}, {{"device", "cuda"}}, {{"cpu", "avx2"}}, {{"gemm", "openblas"}},
                                  {{"graph", false}}, {{"attention_form", "linear"}}, {{"anomaly", true}}, {{"checkpoint_every", 7}}, {{"log_every", 7}}, {{"record", "blocks.0.attn"}},
                                  {{"record_every", 7}}, {{"record_images", 7}}, {{"record_limit_mib", 7}}};
  CHECK(same.size() == train::fields_of_no_setting().size());
  const Json fields = train::to_json({});
  for (const auto& [field, value] : fields.items()) {
    CAPTURE(field);
    bool aside = false;
    for (const Json& change : same) aside |= change.contains(field);
    const Json other = value.is_string() ? Json("x") : value.is_boolean() ? Json(!value.get<bool>()) : Json(value.get<double>() + 1);
    std::vector<inspect::PageRun> runs = {run_of("a", Json::object()), run_of("b", {{field, other}})};
    CHECK(train::group_runs(runs).size() == (aside ? 1 : 2));
  }
  for (const Json& change : same) {
    std::vector<inspect::PageRun> runs = {run_of("a", Json::object()), run_of("b", change)};
    CHECK(train::group_runs(runs).size() == 1);
  }
}

TEST_CASE("groups are named by what differs between them", "[compare]") {
  std::vector<inspect::PageRun> runs = {run_of("a", {{"seed", 1}, {"epochs", 2}}), run_of("b", {{"attention", "x³/√N"}, {"epochs", 2}}), run_of("c", {{"seed", 2}, {"epochs", 2}}),
                                        run_of("d", {{"attention", "x^3 / sqrt(N)"}, {"seed", 4}, {"epochs", 2}}), run_of("e", {{"clamp", "fro:1"}, {"epochs", 2}})};
  const auto groups = train::group_runs(runs);
  REQUIRE(groups.size() == 3);
  CHECK(groups[0].name == "softmax, clamp -");
  CHECK(groups[1].name == "x^3/sqrt(N), clamp -");
  CHECK(groups[2].name == "softmax, clamp fro:1");
  CHECK(groups[2].differs == Json{{"attention", "softmax"}, {"clamp", "fro:1"}});
  CHECK(groups[0].runs == std::vector<std::size_t>{0, 2});
  CHECK(groups[1].runs == std::vector<std::size_t>{1, 3});
  CHECK(runs[3].setting == "x^3/sqrt(N), clamp -");
  runs[4].config["clamp"] = "", runs[4].config["init_std"] = 0;
  CHECK(train::group_runs(runs)[0].name == "softmax, init_std 0.02");
  runs.erase(runs.begin() + 4);
  CHECK(train::group_runs(runs)[1].name == "x^3/sqrt(N)");
  runs[1].config.erase("penalty");  // of a version without it, which means its default
  runs[2].config["unheard_of"] = 1;  // of a later version
  const auto unlike = train::group_runs(runs);
  REQUIRE(unlike.size() == 3);
  CHECK(unlike[0].name == "softmax, unheard_of -");
  CHECK(unlike[2].name == "softmax, unheard_of 1");
}

TEST_CASE("runs on other images are of other settings, as far as the images are known", "[compare]") {
  const auto on = [](const std::string& folder, const std::string& data, const std::string& test) {
    inspect::PageRun run = run_of(folder, {{"data_dir", folder}});
    run.data_hash = data, run.test_hash = test;
    return run;
  };
  const auto names = [](std::vector<inspect::PageRun> runs) {
    std::vector<std::string> found;
    for (const train::RunGroup& group : train::group_runs(runs)) found.push_back(group.name);
    return found;
  };
  using Names = std::vector<std::string>;
  CHECK(names({on("a", "1", "2"), on("b", "1", "2"), on("c", "", "")}) == Names{"softmax"});  // c: of an earlier version
  CHECK(names({on("", "1", "2"), on("b", "1", "3")}) == Names{"softmax, data_dir -", "softmax, data_dir b"});
  CHECK(names({on("", "", ""), on("a", "1", "2"), on("b", "3", "2")}).size() == 2);
  CHECK(names({on("a", "0123456789", "2"), on("a", "9", "2")}) == Names{"softmax, data_hash 01234567", "softmax, data_hash 9"});  // the folder has other files now
  CHECK(names({on("a", "1", "2"), on("b", "1", "2"), on("a", "4", "2")}) == Names{"softmax, data_hash 1", "softmax, data_hash 4"});
  std::vector<inspect::PageRun> runs = {on("a", "1", "2"), run_of("x", {{"attention", "x^3"}})};  // of an earlier version: not "data_hash -"
  CHECK(train::group_runs(runs)[1].differs == Json{{"attention", "x^3"}});
}

TEST_CASE("where a setting's name is long all are without what most settings share, which is told once", "[compare]") {
  std::vector<inspect::PageRun> runs = {run_of("a", Json::object()), run_of("b", {{"attention", "x^3"}}), run_of("c", {{"epochs", 3}, {"lr", 0.002}})};
  using Names = std::vector<std::string>;
  train::ShortNames names = train::short_names(train::group_runs(runs));
  CHECK(names.names == Names{"softmax, epochs 10, lr 0.001", "x^3, epochs 10, lr 0.001", "softmax, epochs 3, lr 0.002"});
  CHECK(names.shared == "");
  runs[2].config["label_smoothing"] = 0.1;
  names = train::short_names(train::group_runs(runs));
  CHECK(names.names == Names{"softmax", "x^3", "softmax, epochs 3, label_smoothing 0.1, lr 0.002"});
  CHECK(names.shared == "epochs 10, label_smoothing 0, lr 0.001");
  runs.erase(runs.begin() + 1);
  CHECK(train::short_names(train::group_runs(runs)).shared == "");  // of two neither is the usual one
}

TEST_CASE("status.json tells the images of a run, by which compare tells settings apart", "[compare]") {
  const auto runs = fs::relative(fresh_folder("compare-images")), other = runs / "data";
  const auto data = fs::relative(tiny_data(64, 20));
  fs::copy(data, other, fs::copy_options::recursive);
  for (const auto& file : fs::directory_iterator(other / "fashion-mnist"))
    if (file.path().string().find("t10k-images") != std::string::npos) {
      std::string bytes = contents(file.path());
      bytes.back() = static_cast<char>(bytes.back() ^ 1);
      write(file.path(), bytes);
    }
  for (const auto& [name, folder, seed] : {std::tuple{"a", data, "1"}, {"b", other, "2"}, {"c", data, "3"}})
    REQUIRE(run_norma(with(tiny_run(folder, runs / name), {"--seed", seed})).code == 0);
  const Json a = Json::parse(contents(runs / "a" / "status.json")), b = Json::parse(contents(runs / "b" / "status.json"));
  const auto saved = train::RunFolder::load(runs / "a", [](const std::string& m) { FAIL(m); });
  REQUIRE(saved);
  REQUIRE((a.contains("data_hash") && a.contains("test_hash") && b.contains("test_hash")));
  CHECK((a["data_hash"] == saved->first.data_hash && a["test_hash"] == saved->first.test_hash));
  CHECK((a["data_hash"] == b["data_hash"] && a["test_hash"] != b["test_hash"]));
  const std::vector<std::string> compare = {"compare", (runs / "a").string(), (runs / "b").string(), (runs / "c").string(), "--html", (runs / "page.html").string()};
  const Finished f = run_norma(compare);
  CAPTURE(f.out, f.err);
  CHECK_THAT(f.out, Contains("\nsoftmax, data_dir " + data.string() + " ") && Contains("\nsoftmax, data_dir " + other.string() + " "));
  const Json groups = Json::parse(run_norma(with(compare, {"--log-format", "json"})).out)["groups"];
  REQUIRE(groups.size() == 2);
  CHECK((groups[0]["seeds"] == 2 && groups[1]["seeds"] == 1));
}

TEST_CASE("a mean is of runs that finished, one a seed", "[compare]") {
  std::vector<inspect::PageRun> runs = {run_of("a", {{"seed", 1}}), run_of("b", {{"seed", 2}}, 0.9, "diverged"), run_of("c", {{"seed", 3}}, 0.9, "interrupted"),
                                        run_of("d", {{"seed", 4}}, 0.9, ""), run_of("e", {{"seed", 1}}), run_of("f", {{"seed", 5}}, NAN), run_of("g", {{"seed", 2}})};
  const auto groups = train::group_runs(runs);
  REQUIRE(groups.size() == 1);
  CHECK(groups[0].counted == std::vector<std::size_t>{0, 6});
  std::vector<std::string> why;
  for (const inspect::PageRun& run : runs) why.push_back(run.left_out);
  CHECK(why == std::vector<std::string>{"", "diverged", "interrupted", "not ended", "seed 1 again, as a", "not finite", ""});
}

TEST_CASE("the spread over seeds is the sample standard deviation", "[compare]") {
  const train::Spread three = train::spread_of(std::vector<double>{1, 2, 6}), one = train::spread_of(std::vector<double>{4});
  CHECK(three.mean == 3);
  CHECK(three.deviation == Approx(std::sqrt(7.0)));
  CHECK((one.mean == 4 && std::isnan(one.deviation)));
  CHECK(std::isnan(train::spread_of({}).mean));
}

TEST_CASE("what seeds do to both settings is not in their differences by seed", "[compare]") {
  std::vector<inspect::PageRun> runs = {run_of("a1", {{"seed", 1}}), run_of("a2", {{"seed", 2}}), run_of("a3", {{"seed", 3}}), run_of("b2", {{"seed", 2}, {"attention", "x^3"}}),
                                        run_of("b1", {{"seed", 1}, {"attention", "x^3"}}), run_of("b4", {{"seed", 4}, {"attention", "x^3"}}), run_of("c1", {{"attention", "relu"}})};
  const auto groups = train::group_runs(runs);
  REQUIRE(groups.size() == 3);
  const std::vector<double> values = {10, 20, 70, 22, 13, 90, 5};
  const train::Paired two = train::paired(groups[0], groups[1], runs, values), one = train::paired(groups[0], groups[2], runs, values);
  CHECK(two.seeds == 2);  // 1: 13 - 10, 2: 22 - 20
  CHECK(two.difference.mean == Approx(2.5));
  CHECK(two.difference.deviation == Approx(std::sqrt(0.5)));
  CHECK(two.error == Approx(0.5));
  CHECK((two.low == Approx(2.5 - 12.7062 * 0.5) && two.high == Approx(2.5 + 12.7062 * 0.5)));
  CHECK((one.seeds == 1 && std::isnan(one.difference.mean) && std::isnan(one.error) && std::isnan(one.low) && std::isnan(one.high)));
}

TEST_CASE("differences that are equal have no interval, unless they are 0", "[compare]") {
  std::vector<inspect::PageRun> runs = {run_of("a1", {{"seed", 1}}), run_of("a2", {{"seed", 2}}), run_of("a3", {{"seed", 3}}), run_of("b1", {{"seed", 1}, {"attention", "x^3"}}),
                                        run_of("b2", {{"seed", 2}, {"attention", "x^3"}}), run_of("b3", {{"seed", 3}, {"attention", "x^3"}})};
  const auto groups = train::group_runs(runs);
  const std::vector<double> apart = {0.80, 0.81, 0.83, 0.82, 0.83, 0.85}, same = {0.1 + 0.2, 0.5, 0.7, 0.3, 0.5, 0.7};
  REQUIRE(apart[3] - apart[0] != apart[5] - apart[2]);  // but by their rounding
  const train::Paired equal = train::paired(groups[0], groups[1], runs, apart), none = train::paired(groups[0], groups[1], runs, same);
  CHECK((equal.seeds == 3 && equal.difference.mean == Approx(0.02) && equal.difference.deviation == 0 && equal.error == 0));
  CHECK((std::isnan(equal.low) && std::isnan(equal.high)));
  CHECK((none.difference.mean == 0 && none.difference.deviation == 0 && none.low == 0 && none.high == 0));
}

TEST_CASE("a line for each further setting tells how far it is from the one with several seeds", "[compare]") {
  std::vector<inspect::PageRun> runs;
  const auto add = [&](const std::string& attention, const std::vector<std::pair<int, double>>& seeds, const std::string& ending = "finished") {
    for (const auto& [seed, accuracy] : seeds) runs.push_back(run_of(attention, {{"attention", attention}, {"seed", seed}}, accuracy, ending));
  };
  const auto lines = [&](const std::vector<std::string>& names = {}) {
    const auto groups = train::group_runs(runs);
    return train::differences_by_seed(groups, runs, names);
  };
  add("relu", {{1, 0.9}}, "diverged"), add("softmax", {{1, 0.8}});
  CHECK(lines().empty());  // no setting has two runs
  add("softmax", {{2, 0.86}, {3, 0.9}}), add("x^3", {{1, 0.81}, {2, 0.87}, {3, 0.91}}), add("x", {{3, 0.9}, {2, 0.86}}), add("x^5", {{3, 0.9}});
  CHECK(lines() == std::vector<std::string>{"relu minus softmax: 0 seeds in common, two are needed",
                                            "x^3 minus softmax, by seed (3): 1.00 points, all 3 differences are equal: no interval",
                                            "x minus softmax, by seed (2): 0.00 points, 95 % interval 0.00 to 0.00: no difference at 95 % (two seeds say next to nothing)",
                                            "x^5 minus softmax: 1 seed in common, two are needed"});
  CHECK(lines({"a", "b", "c", "d", "e"})[3] == "e minus b: 1 seed in common, two are needed");
}

TEST_CASE("95 % of Student's t lies within so many standard errors", "[compare]") {
  for (const std::size_t degrees : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 50, 1000}) {
    const auto n = static_cast<double>(degrees);
    const double peak = std::exp(std::lgamma((n + 1) / 2) - std::lgamma(n / 2)) / std::sqrt(n * std::acos(-1.0)), reach = train::factor_95(degrees);
    const auto density = [&](double t) { return peak * std::pow(1 + t * t / n, -(n + 1) / 2); };
    constexpr int pieces = 2000;  // Simpson's rule
    double within = density(0) + density(reach);
    for (int i = 1; i < pieces; ++i) within += (i % 2 ? 4 : 2) * density(reach * i / pieces);
    CAPTURE(degrees);
    CHECK(2 * within * reach / pieces / 3 == Approx(0.95).margin(1.5e-5));
  }
}

TEST_CASE("compare tells settings of several runs beside the runs", "[compare]") {
  const std::vector<std::string> runs = {seeded_run("compare-a1", 1, "softmax", 0.80).string(), seeded_run("compare-a2", 2, "softmax", 0.82, 2).string(), seeded_run("compare-a3", 3, "softmax", 0.87, 3).string(),
                                         diverged_run("compare-x1", 1, "x^3").string(), seeded_run("compare-x2", 2, "x^3", 0.5).string(), seeded_run("compare-y", 1, "relu", 0.25).string()};
  const std::string page = (fresh_folder("compare-groups") / "page.html").string();
  Finished f = run_norma(with(with({"compare"}, runs), {"--html", page}));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Contains("seconds   status\n"));
  CHECK_THAT(f.out, Contains(" 80.00 %     0.2000        90   finished\n") && Contains(" x^3                        -          -        12   diverged\n"));
  CHECK_THAT(f.out, Contains("\nby setting, runs that differ in their seed alone: mean ± sample standard deviation over seeds\n"
                             "setting   in the mean   left out        test acc.         test loss   last ||A||_F\n"
                             "softmax             3          0   83.00 ± 3.61 %   0.1700 ± 0.0361      4.5 ± 2.2\n"
                             "x^3                 1          1          50.00 %            0.5000           2.25\n"
                             "relu                1          0          25.00 %            0.7500           2.25\n"
                             "not in the mean of x^3: " + runs[3] + " (diverged)\n"));
  CHECK_THAT(f.out, Contains("\n\nx^3 minus softmax: 1 seed in common, two are needed\nrelu minus softmax: 1 seed in common, two are needed\n\n"));
  CHECK_THAT(f.out, Contains("\nlast ||A||_F by setting and block (above: the mean over blocks)\n"
                             "setting     block 0     block 1\n"
                             "softmax   3.0 ± 1.5   6.0 ± 3.0\n"
                             "x^3            1.50        3.00\n"));

  f = run_norma({"compare", diverged_run("compare-z1", 1, "x^3/sqrt(17)").string(), diverged_run("compare-z2", 2, "x^3/sqrt(17)").string(), runs[0], "--html", page});
  CHECK_THAT(f.out, Contains("\nx^3/sqrt(17)             0          2           -           -              -\n"));  // named as the runs are
  CHECK_THAT(f.out, Contains("\nx^3/sqrt(17)         -         -\n"));
  CHECK_THAT(f.out, Contains("\nsoftmax minus x^3/sqrt(17): 0 seeds in common, two are needed\n"));  // there is no better reference

  f = run_norma(with(with({"compare"}, runs), {"--html", page, "--log-format", "json"}));
  REQUIRE(f.code == 0);
  const Json all = Json::parse(f.out), softmax = all["groups"][0], cubes = all["groups"][1];
  REQUIRE(all["groups"].size() == 3);
  CHECK((softmax["name"] == "softmax" && softmax["seeds"] == 3 && softmax["runs"] == Json({runs[0], runs[1], runs[2]})));
  CHECK(softmax["test_accuracy"]["mean"].get<double>() == Approx(0.83));
  CHECK(softmax["test_accuracy"]["deviation"].get<double>() == Approx(std::sqrt(0.0013)));
  CHECK(softmax["fro_by_block"][1]["mean"].get<double>() == Approx(6));
  CHECK((cubes["seeds"] == 1 && cubes["test_loss"]["mean"] == 0.5 && cubes["test_loss"]["deviation"].is_null()));
  REQUIRE(cubes.contains("by_seed"));
  CHECK((cubes["by_seed"]["seeds"] == 1 && cubes["by_seed"]["test_accuracy"]["mean"].is_null() && cubes["by_seed"]["test_accuracy"]["ci95_low"].is_null()));
  CHECK(cubes["left_out"] == Json::array({{{"run", runs[3]}, {"why", "diverged"}}}));
  CHECK(all["runs"][3]["status"] == "diverged");
  const Json data = data_of(contents(page)), shown = data["runs"];
  CHECK((data["live"] == false && shown[3]["seconds"] == 12));
  CHECK((shown[1]["setting"] == "softmax" && shown[3]["setting"] == "x^3" && shown[3]["left_out"] == "diverged" && shown[4]["left_out"] == ""));
}

TEST_CASE("compare tells further settings less the first one, by seed", "[compare]") {
  const std::vector<std::string> runs = {seeded_run("compare-p1", 1, "softmax", 0.80).string(), seeded_run("compare-p2", 2, "softmax", 0.86).string(), seeded_run("compare-p3", 3, "softmax", 0.6).string(),
                                         seeded_run("compare-q1", 1, "x^3", 0.83).string(), seeded_run("compare-q2", 2, "x^3", 0.87).string()};
  const std::string page = (fresh_folder("compare-paired") / "page.html").string();
  const Finished text = run_norma(with(with({"compare"}, runs), {"--html", page})), json = run_norma(with(with({"compare"}, runs), {"--html", page, "--log-format", "json"}));
  REQUIRE((text.code == 0 && json.code == 0));
  CHECK_THAT(text.out, Contains("\n\nx^3 minus softmax, by seed (2): 2.00 points, 95 % interval -10.71 to 14.71: no difference at 95 % (two seeds say next to nothing)\n\nlast ||A||_F by setting"));
  CHECK(data_of(contents(page))["differences"] == Json({"x^3 minus softmax, by seed (2): 2.00 points, 95 % interval -10.71 to 14.71: no difference at 95 % (two seeds say next to nothing)"}));
  const Json groups = Json::parse(json.out)["groups"], by_seed = groups[1]["by_seed"];
  CHECK(!groups[0].contains("by_seed"));
  CHECK((by_seed["less"] == "softmax" && by_seed["seeds"] == 2));
  CHECK(by_seed["test_accuracy"]["mean"].get<double>() == Approx(0.02));
  CHECK(by_seed["test_accuracy"]["deviation"].get<double>() == Approx(std::sqrt(2e-4)));
  CHECK(by_seed["test_accuracy"]["ci95_low"].get<double>() == Approx(0.02 - 0.127062));
  CHECK(by_seed["test_accuracy"]["ci95_high"].get<double>() == Approx(0.02 + 0.127062));
  CHECK(by_seed["test_loss"]["standard_error"].get<double>() == Approx(0.01));
  CHECK(by_seed["test_loss"]["ci95_low"].get<double>() == Approx(-0.02 - 0.127062));

  const std::vector<std::string> apart = {seeded_run("compare-r1", 1, "relu", 0.90).string(), seeded_run("compare-r2", 2, "relu", 0.961).string(), seeded_run("compare-r3", 3, "relu", 0.699).string()};
  CHECK_THAT(run_norma(with(with(with({"compare"}, {runs[0], runs[1], runs[2]}), apart), {"--html", page})).out,
             Contains("\nrelu minus softmax, by seed (3): 10.00 points, 95 % interval 9.75 to 10.25: a difference at 95 %\n"));

  const std::vector<std::string> broken = {diverged_run("compare-s1", 1, "relu").string(), diverged_run("compare-s2", 2, "relu").string()};
  const Finished f = run_norma(with(with(with({"compare"}, broken), runs), {"--html", page}));  // the first setting has no mean
  CHECK_THAT(f.out, Contains("\n\nrelu minus softmax: 0 seeds in common, two are needed\nx^3 minus softmax, by seed (2): 2.00 points, 95 % interval -10.71 to 14.71: "));

  const std::vector<std::string> steady = {seeded_run("compare-t1", 1, "relu", 0.81).string(), seeded_run("compare-t2", 2, "relu", 0.87).string()};
  CHECK_THAT(run_norma(with(with({"compare", runs[0], runs[1]}, steady), {"--html", page})).out,
             Contains("\nrelu minus softmax, by seed (2): 1.00 points, all 2 differences are equal: no interval (two seeds say next to nothing)\n"));
  const std::vector<std::string> same = {seeded_run("compare-u1", 1, "relu", 0.80).string(), seeded_run("compare-u2", 2, "relu", 0.86).string()};
  CHECK_THAT(run_norma(with(with({"compare", runs[0], runs[1]}, same), {"--html", page})).out,
             Contains("\nrelu minus softmax, by seed (2): 0.00 points, 95 % interval 0.00 to 0.00: no difference at 95 % (two seeds say next to nothing)\n"));
}

TEST_CASE("compare's lines on a setting are of short names where one is long", "[compare]") {
  std::vector<std::string> args = {"compare"};
  for (const char* attention : {"softmax", "x^3"})
    for (int seed = 1; seed <= 2; ++seed) args.push_back(seeded_run(fmt::format("compare-short-{}{}", attention, seed), seed, attention, 0.8 + 0.01 * seed).string());
  const fs::path outlier = seeded_run("compare-outlier", 1, "softmax", 0.7);
  write(outlier / "config.json", replaced(good_config, "\"lr\": 0.001", R"("lr": 0.002, "clip": 1.5, "weight_decay": 0.3, "warmup_epochs": 0.02)"));
  const Finished f = run_norma(with(args, {outlier.string(), "--html", (outlier / "page.html").string()}));
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Contains("\nwhere a setting names no other: clip ") && Contains(", lr 0.001, warmup_epochs ") && Contains("\nx^3 ") && Contains("\nx^3 minus softmax, by seed (2): ") &&
                        Contains("\nsoftmax, clip 1.5, lr 0.002, warmup_epochs 0.02, weight_decay 0.3 minus softmax: 1 seed in common, two are needed\n"));
}

TEST_CASE("compare's tables fit the terminal, and elsewhere 120 characters", "[compare]") {
  const auto deep = [](const std::string& name, const std::string& attention, int seed) {
    const fs::path run = seeded_run(name, seed, attention, 0.8);
    Json row = Json::parse(good_row);
    for (int block = 1; block < 12; ++block) row["attention"].push_back({{"place", fmt::format("blocks.{}.attn.stats", block)}, {"fro", {0.5, 10.0 * block}}});
    write(run / "metrics.jsonl", row.dump() + "\n");
    return fs::relative(run).string();
  };
  std::vector<std::string> args = {"compare"};
  for (const auto& [name, attention] : {std::pair{"compare-wide-softmax", "softmax"}, {"compare-wide-cubes-over-the-root-of-N", "x^3/sqrt(N)"}})
    for (int seed = 1; seed <= 3; ++seed) args.push_back(deep(fmt::format("{}-{}", name, seed), attention, seed));
  args = with(args, {"--html", fs::relative(fresh_folder("compare-wide") / "page.html").string()});  // the path has a line of its own, as long as it is
  for (const unsigned short columns : {80, 120, 200}) {
    const std::string told = on_terminal(args, "xterm", "", columns, 1);
    CAPTURE(columns, told);
    CHECK(widest_line(told) <= columns);
    CHECK(widest_line(told) > columns - 60u);  // and uses it
    CHECK_THAT(told, Contains("\nblock 11     55.2 → 55.2 → 55.2 ") && Contains("\nlargest at    step 0, block 11,"));
  }
  const Finished piped = run_norma(args);
  CHECK(widest_line(piped.out) <= 120);
  CHECK_THAT(piped.out, Contains("\nblock 11     55.2 → 55.2 → 55.2 "));
}

TEST_CASE("what compare leaves out of a run is told", "[compare]") {
  const fs::path run = seeded_run("compare-notes", 1, "softmax", 0.8);
  write(run / "metrics.jsonl", good_row + "\n" + good_row.substr(0, 100));
  write(run / "status.json", "{");
  const Finished f = run_norma({"compare", run.string(), "--html", (run / "page.html").string()});
  CHECK(f.code == 0);
  CHECK_THAT(f.err, Contains("status.json: JSON error at byte ") && Contains("; left out\n") && Contains("metrics.jsonl:2: the line is cut after 100 bytes"));
}

TEST_CASE("a run that has no checkpoint yet has no seconds", "[compare]") {
  const fs::path run = fs::relative(written_run("compare-begun", good_config, good_row + "\n"));
  const auto told = [&](const std::string& status) {
    write(run / "status.json", status);
    return run_norma({"compare", run.string(), "--html", (run / "page.html").string()}).out;
  };
  CHECK_THAT(told(R"({"step": 0, "ending": "", "seconds": 0.7})"), Contains(" -   not ended\n"));
  CHECK_THAT(told(R"({"step": 6, "ending": "", "seconds": 7.2})"), Contains(" 7   not ended\n"));
  CHECK_THAT(told(R"({"step": 0, "ending": "diverged", "seconds": 8.2})"), Contains(" 8   diverged\n"));
}

TEST_CASE("of a run that has not ended compare tells the newest evaluation", "[compare]") {
  const auto tested = [](Index step, double accuracy) { return fmt::format(R"({{"step": {}, "epoch": 1, "test_loss": {}, "test_accuracy": {}}})", step, 1 - accuracy, accuracy) + "\n"; };
  const fs::path run = fs::relative(written_run("compare-going-on", good_config, good_row + "\n" + tested(1, 0.25) + tested(2, 0.75)));
  CHECK_THAT(run_norma({"compare", run.string(), "--html", (run / "page.html").string()}).out, Contains(" 75.00 %     0.2500         -   not ended\n"));
}

TEST_CASE("a norm that is the same for all seeds has no spread, also where its mean is rounded", "[compare]") {
  std::vector<std::string> args = {"compare"};
  for (int seed = 1; seed <= 3; ++seed) args.push_back(seeded_run(fmt::format("compare-same{}", seed), seed, "softmax", 0.8, 0.1).string());
  const Finished f = run_norma(with(args, {"--html", (fresh_folder("compare-same") / "page.html").string()}));
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Contains(" 0.225 ± 0.00\n") && Contains("\nsoftmax   0.150 ± 0.00   0.300 ± 0.00\n"));
}

TEST_CASE("without two runs of a setting there is no table of settings, and no status where all have finished", "[compare]") {
  const std::string a = seeded_run("compare-single-a", 1, "softmax", 0.8).string(), b = seeded_run("compare-single-b", 1, "x^3", 0.8).string();
  const Finished f = run_norma({"compare", a, b, "--html", (fresh_folder("compare-single") / "page.html").string()});
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Contains("test loss   seconds\n") && !Contains("setting") && !Contains("status") && !Contains("±") && !Contains("in common"));
}

TEST_CASE("the help of compare names every field that makes no other setting", "[compare]") {
  const std::string help = run_norma({"compare", "--help"}).out;
  for (const char* field : train::fields_of_no_setting()) CHECK_THAT(help, Contains(field));
}

TEST_CASE("compare tells the first, the largest and the last norm of a block, passing over what is no number", "[compare]") {
  const auto row = [](Index step, const std::string& fro) {
    return replaced(replaced(good_row, "\"step\": 0", fmt::format("\"step\": {}", step)), "[1.0, 2.0]", fro) + "\n";
  };
  const auto fro_of = [&](const char* name, const std::string& second, const std::string& third) {
    const auto run = written_run(name, good_config, good_row + "\n" + row(1, second) + row(2, third));
    const Finished f = run_norma({"compare", run.string(), "--log-format", "json", "--html", (run / "page.html").string()});
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return Json::parse(f.out)["runs"][0]["fro"][0];
  };
  const Json whole = fro_of("compare-norms", "[5.0, 6.0]", "[3.0, 4.0]");
  CHECK((whole["first"] == 1.5 && whole["largest"] == 5.5 && whole["last"] == 3.5));
  CHECK((whole["largest_step"] == 1 && whole["largest_head"] == 1));
  CHECK(fro_of("compare-gap", "[null, 6.0]", "[0.5, 0.5]")["largest"] == 1.5);
  const std::string run = fs::relative(written_run("compare-largest", good_config, good_row + "\n" + row(1, "[9.0, 6.0]"))).string();  // short lines
  const auto told = [&](const std::vector<std::string>& runs) { return run_norma(with(with({"compare"}, runs), {"--html", run + "/page.html"})).out; };
  CHECK_THAT(told({run}), Contains("   largest at\n") && Contains("   step 1, block 0, head 0\n"));
  const fs::path deep = written_run("compare-deep", good_config, replaced(good_row, R"({"place": "blocks.0.attn.stats", "fro": [1.0, 2.0]})",
                                                                         R"({"place": "a", "fro": [1]}, {"place": "b", "fro": [1]}, {"place": "c", "fro": [1]}, {"place": "d", "fro": [1]})") + "\n");
  CHECK_THAT(told({run, deep.string()}), !Contains("largest at"));  // lines would be too long
}

TEST_CASE("compare names the bound of softmax for each number of tokens", "[compare]") {
  const fs::path small = seeded_run("compare-n-17", 1, "softmax", 0.5), large = seeded_run("compare-n-49", 1, "x^3", 0.5), unknown = diverged_run("compare-n", 1, "x");
  write(large / "summary.json", replaced(contents(large / "summary.json"), "17", "49"));
  const auto told = [&](const std::vector<std::string>& runs) { return run_norma(with(with({"compare"}, runs), {"--html", (small / "page.html").string()})).out; };
  CHECK_THAT(told({small.string(), large.string(), unknown.string()}), Contains("last logged step; softmax: at most √N = 4.123 or 7\n"));
  CHECK_THAT(told({unknown.string()}), Contains("last logged step\n"));
}

TEST_CASE("compare says which runs have statistics of a sample of the rows, those of earlier versions too", "[compare]") {
  const std::string fro = R"("fro": [1.0, 2.0])";
  const auto told = [&](const std::string& more, const std::vector<std::string>& flags = {}) {
    const fs::path run = written_run("compare-sampled", good_config, replaced(good_row, fro, fro + more) + "\n");
    const Finished f = run_norma(with({"compare", run.string(), "--html", (run / "page.html").string()}, flags));
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return f.out;
  };
  const std::string of_linear = "compare-sampled: attention in linear form: all but ", of_48 = "the sums of rows are estimates from 48 rows a head, and extremes bounds. --attention-form quadratic is exact.\n";
  CHECK_THAT(told(""), !Contains("linear form"));
  CHECK_THAT(told(R"(, "sampled": [1.0, 1.0])"), Contains(of_linear + "||A||_F and " + of_48));
  CHECK_THAT(told(R"(, "fro_error": [0.1, 0.1], "sampled": [1.0, 1.0])"), Contains(of_linear + of_48));
  CHECK_THAT(told(R"(, "fro_error": [0.1, 0.1])"), Contains(of_linear + of_48));
  const Json run = Json::parse(told(R"(, "sampled": [1.0, 1.0])", {"--log-format", "json"}))["runs"][0];
  CHECK((run["sampled"] == true && run["fro_sampled"] == false));
}

TEST_CASE("compare shows norms with three digits, and none beyond", "[compare]") {
  const std::vector<std::pair<std::string, std::string>> shown = {{"991", "991"}, {"990.6", "991"}, {"999.6", "1.00e+03"}, {"99.96", "100"}, {"10", "10.0"}, {"1", "1.00"}, {"0.5", "0.500"}, {"0", "0.00"},
                                                                  {"0.000012345", "1.23e-05"}, {"1234567", "1.23e+06"}};
  for (const auto& [value, text] : shown) {
    const fs::path run = written_run("compare-digits", good_config, replaced(good_row, "[1.0, 2.0]", fmt::format("[{0}, {0}]", value)) + "\n");
    const std::string norms = fmt::format(" {0} → {0} → {0}", text);  // and then the end of the line, or the next column
    CAPTURE(value);
    CHECK_THAT(run_norma({"compare", run.string(), "--html", (run / "page.html").string()}).out, Contains(norms + "\n") || Contains(norms + " "));
  }
}
