// `norma watch`: what its server answers and what it refuses, how it follows a run, and how it starts and ends.
#include <catch2/catch.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <regex>
#include <thread>

#include "tests/program.h"
#include "tests/written_run.h"
#include "train/run_folder.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;
using train::Json;
namespace fs = std::filesystem;

namespace {

/// A connection to a port of this machine.
class Connection {
 public:
  explicit Connection(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience{30, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    open_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~Connection() { ::close(fd_); }
  Connection(const Connection&) = delete;
  bool open() const { return open_; }
  void send(const std::string& text) const { REQUIRE(::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size())); }
  /// All until the other side closes.
  std::string receive() const {
    std::string all;
    char part[65536];
    for (ssize_t n; (n = ::recv(fd_, part, sizeof part, 0)) > 0;) all.append(part, static_cast<std::size_t>(n));
    return all;
  }

 private:
  int fd_;
  bool open_;
};

struct Answer {
  int status = 0;
  std::string head, body;
};

/// The program with its address taken from what it prints.
class Watching {
 public:
  explicit Watching(const std::vector<fs::path>& runs) : Watching(runs, {}) {}
  Watching(const std::vector<fs::path>& runs, const std::vector<std::string>& more) : program_(args(runs, more)) {
    for (int i = 0; i < 3000 && printed_.find('\n') == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      printed_ = program_.out();
    }
    std::smatch found;
    REQUIRE(std::regex_search(printed_, found, std::regex("http://127\\.0\\.0\\.1:([0-9]+)/\\?token=([0-9a-f]{32})")));
    port = std::stoi(found[1]);
    token = found[2];
  }

  Answer ask(const std::string& path, const std::string& headers, const std::string& method = "GET") const {
    const Connection connection(port);
    REQUIRE(connection.open());
    connection.send(method + " " + path + " HTTP/1.1\r\nConnection: close\r\n" + headers + "\r\n");
    const std::string all = connection.receive();
    CAPTURE(path, headers, method, all.substr(0, 200));
    REQUIRE_THAT(all, StartsWith("HTTP/1.1 "));
    const std::size_t end = all.find("\r\n\r\n");
    REQUIRE(end != std::string::npos);
    return {std::stoi(all.substr(9, 3)), all.substr(0, end + 2), all.substr(end + 4)};
  }
  std::string host() const { return fmt::format("Host: 127.0.0.1:{}\r\n", port); }
  Answer page() const { return ask("/?token=" + token, host()); }
  Json all(const std::string& since) const {
    std::this_thread::sleep_for(std::chrono::milliseconds(350));  // it looks at the files at most every 300 ms
    const Answer a = ask("/data?token=" + token + "&since=" + since, host());
    REQUIRE(a.status == 200);
    return Json::parse(a.body);
  }
  Json data(const std::string& since) const { return all(since)["runs"]; }
  Program& program() { return program_; }
  const std::string& printed() const { return printed_; }

  int port = 0;
  std::string token;

 private:
  static std::vector<std::string> args(const std::vector<fs::path>& runs, const std::vector<std::string>& more) {
    std::vector<std::string> all{"watch", "--port", "0"};
    for (const fs::path& run : runs) all.push_back(run.string());
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Program program_;
  std::string printed_;
};

std::string row(int step) { return replaced(good_row, "\"step\": 0", fmt::format("\"step\": {}", step)) + "\n"; }

void append(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary | std::ios::app) << text; }

std::string header(const Answer& a, const std::string& name) {
  const std::size_t begin = a.head.find("\r\n" + name + ": ");
  if (begin == std::string::npos) return "";
  const std::size_t value = begin + name.size() + 4;
  return a.head.substr(value, a.head.find("\r\n", value) - value);
}

}  // namespace

TEST_CASE("the page is the report's, under a policy that runs nothing but its own", "[watch]") {
  const auto run = written_run("watch-page", good_config, row(0) + row(5));
  const Watching watch({run});
  const Answer a = watch.page();
  CHECK(a.status == 200);
  CHECK(header(a, "Content-Type") == "text/html; charset=utf-8");
  const std::string policy = header(a, "Content-Security-Policy");
  std::smatch nonce;
  REQUIRE(std::regex_search(policy, nonce, std::regex("script-src 'nonce-([0-9a-f]{32})'")));
  for (const char* rule : {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"})
    CHECK_THAT(policy, Contains(rule));
  CHECK_THAT(policy, !Contains("unsafe"));
  CHECK(header(a, "X-Content-Type-Options") == "nosniff");
  CHECK(header(a, "Referrer-Policy") == "no-referrer");
  CHECK(header(a, "Cache-Control") == "no-store");
  CHECK(header(a, "Cross-Origin-Resource-Policy") == "same-origin");
  CHECK(header(a, "Cross-Origin-Opener-Policy") == "same-origin");

  CHECK_THAT(a.body, StartsWith("<!doctype html>") && Contains("<script nonce=\"" + nonce[1].str() + "\">") && Contains("<style nonce=\"" + nonce[1].str() + "\">"));
  CHECK_THAT(a.body, !Contains("unsafe-inline") && !Contains(" style=") && !Contains("src=\"") && !Contains("onclick=\""));
  for (const char* mark : {"/*STYLE*/", "/*TABLES*/", "/*POINTER*/", "/*CHART*/", "/*MEASURES*/", "/*WHO*/", "/*REPORT*/", "/*LIVE*/", "/*DATA*/", "/*POLICY*/", "/*NONCE*/"}) CHECK_THAT(a.body, !Contains(mark));
  Json page = data_of(a.body);
  CHECK(page["title"] == "Norma: test-watch-page");
  CHECK(page["runs"][0]["rows"].size() == 2);
  CHECK_THAT(header(watch.page(), "Content-Security-Policy"), !Contains(nonce[1].str()));  // every answer has its own

  const Finished report = run_norma({"report", run.string()});
  REQUIRE(report.code == 0);
  CHECK(page["live"] == true);
  page["live"] = false;
  CHECK(data_of(contents(run / "report.html")) == page);
}

TEST_CASE("only the own names, GET and the token are answered", "[watch]") {
  const auto run = written_run("watch-refused", good_config, row(0));
  const Watching watch({run});
  const std::string good = "/?token=" + watch.token, own = watch.host(), port = std::to_string(watch.port);
  std::string other_token = watch.token;
  other_token.back() = other_token.back() == '0' ? '1' : '0';
  struct Case { std::string path, headers, method; int status; };
  const std::vector<Case> table = {
      {good, own, "GET", 200},
      {good, "Host: localhost:" + port + "\r\n", "GET", 200},
      {good, own + "Origin: http://127.0.0.1:" + port + "\r\n", "GET", 200},
      {"/data?token=" + watch.token, own, "GET", 200},
      {"/", own, "GET", 403},
      {"/data", own, "GET", 403},
      {"/?token=", own, "GET", 403},
      {"/?token=" + other_token, own, "GET", 403},
      {"/data?token=" + other_token, own, "GET", 403},
      {"/?token=" + watch.token + "0", own, "GET", 403},
      {"/?token=" + watch.token.substr(1), own, "GET", 403},
      {"/?%74oken=" + watch.token, own, "GET", 403},
      {good, "Host: evil.example\r\n", "GET", 403},
      {good, "Host: evil.example:" + port + "\r\n", "GET", 403},
      {good, "Host: 127.0.0.1\r\n", "GET", 403},
      {good, "Host: 127.0.0.1:" + port + ".evil.example\r\n", "GET", 403},
      {good, "Host: 127.0.0.1:" + port + "@evil.example\r\n", "GET", 403},
      {good, "Host: 0.0.0.0:" + port + "\r\n", "GET", 403},
      {good, "Host: [::1]:" + port + "\r\n", "GET", 403},
      {good, "Host:\r\n", "GET", 403},
      {good, own + "Host: evil.example\r\n", "GET", 403},
      {good, own + "Origin: http://evil.example\r\n", "GET", 403},
      {good, own + "Origin: null\r\n", "GET", 403},
      {good, own + "Origin: https://127.0.0.1:" + port + "\r\n", "GET", 403},
      {good, own + "Origin: http://127.0.0.1:1\r\n", "GET", 403},
      {good, own, "HEAD", 405},
      {good, own + "Content-Length: 3\r\n", "POST", 405},
      {good, own + "Content-Length: 1000000\r\n", "PUT", 405},
      {good, own, "DELETE", 405},
      {good, own, "OPTIONS", 405},
      {good, own, "NONSENSE", 405}};
  for (const Case& c : table) {
    CAPTURE(c.path, c.headers, c.method);
    const Answer a = watch.ask(c.path, c.headers, c.method);
    CHECK(a.status == c.status);
    if (a.status == 200) continue;
    CHECK_THAT(a.body, !Contains("softmax") && !Contains(watch.token));
    CHECK(header(a, "Content-Type") == "text/plain; charset=utf-8");
    CHECK_THAT(header(a, "Content-Security-Policy"), StartsWith("default-src 'none'"));
    CHECK(header(a, "Allow") == (c.status == 405 ? "GET" : ""));
    CHECK(header(a, "Access-Control-Allow-Origin").empty());
  }
}

TEST_CASE("no path leads to a file", "[watch]") {
  const auto run = written_run("watch-paths", good_config, row(0));
  const Watching watch({run});
  const std::string absolute = std::regex_replace(fs::absolute(run).string(), std::regex(" "), "%20");  // as a request may spell it
  for (const std::string& path :
       {std::string("/../../etc/passwd"), std::string("/../../../../../../../../etc/passwd"), std::string("/%2e%2e/%2e%2e/etc/passwd"),
        std::string("/..%2f..%2fetc%2fpasswd"), std::string("/%252e%252e/etc/passwd"), std::string("/..\\..\\etc\\passwd"), std::string("/....//etc/passwd"),
        std::string("//etc/passwd"), std::string("/etc/passwd"), std::string("/config.json"), std::string("/metrics.jsonl"), std::string("/data/config.json"),
        std::string("/data/../config.json"), std::string("/data%2f..%2fconfig.json"), std::string("/./config.json"), std::string("/%00/config.json"), std::string("/%64ata"),
        absolute + "/config.json", std::string("file:///etc/passwd"), std::string("http://evil.example/config.json"), std::string("/favicon.ico")}) {
    const Answer a = watch.ask(path + "?token=" + watch.token, watch.host());
    CAPTURE(path, a.body);
    CHECK((a.status == 404 || a.status == 403 || a.status == 400));
    CHECK_THAT(a.body, !Contains("root:") && !Contains("softmax"));
  }
  // What is no HTTP gets no content either, and the server goes on.
  for (const std::string& text : {std::string("\r\n\r\n"), std::string("GET\r\n\r\n"), std::string("GET " + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n"),
                                  "GET /?token=" + watch.token + " HTTP/1.1\r\nHost: 127.0.0.1\r\n \r\n\r\n", std::string(5000, '\0')}) {
    const Connection connection(watch.port);
    REQUIRE(connection.open());
    connection.send(text);
    ::usleep(20000);
  }
  CHECK(watch.page().status == 200);
}

TEST_CASE("names that look like script come as text", "[watch]") {
  const std::string name = "watch-<img src=x onerror=alert(1)><script>alert(1)<";
  const auto run = written_run(name, replaced(good_config, "\"softmax\"", "\"</script><script>alert(2)</script>\""), row(0));
  const Watching watch({run});
  const Answer page = watch.page();
  CHECK_THAT(page.body, !Contains("<img") && !Contains("<script>alert"));
  CHECK(data_of(page.body)["runs"][0]["name"] == "test-" + name);
  const Json runs = watch.data("");
  CHECK(runs[0]["name"] == "test-" + name);
  CHECK(runs[0]["config"]["attention"] == "</script><script>alert(2)</script>");
}

TEST_CASE("the data grows with the file, and follows a run that was resumed", "[watch]") {
  const auto run = written_run("watch-grows", good_config, row(0)), other = written_run("watch-other", good_config, row(0) + row(7));
  const fs::path metrics = run / "metrics.jsonl";
  const Watching watch({run, other});
  Json now = watch.data("0.1_0.2");
  REQUIRE(now.size() == 2);
  CHECK(now[0]["rows"].empty());
  CHECK(now[1]["rows"].empty());
  CHECK(now[0]["summary"].is_null());
  CHECK(now[0]["quiet_seconds"].get<double>() < 600);

  append(metrics, row(1) + row(2));
  now = watch.data("0.1_0.2");
  CHECK(now[0]["from"] == 1);
  REQUIRE(now[0]["rows"].size() == 2);
  CHECK(now[0]["rows"][1]["step"] == 2);
  CHECK(now[0]["rows"][1]["parameters"]["grad"][0] == 0.5);  // as columns, as in the page
  CHECK(now[1]["rows"].empty());

  append(metrics, row(3).substr(0, 50));  // half of a line
  now = watch.data("0.3_0.2");
  CHECK(now[0]["rows"].empty());
  CHECK_THAT(now[0]["note"].get<std::string>(), Contains("metrics.jsonl:4: the line is cut after 50 bytes"));
  append(metrics, row(3).substr(50));
  now = watch.data("0.3_0.2");
  REQUIRE(now[0]["rows"].size() == 1);
  CHECK(now[0]["note"] == "");

  fs::resize_file(metrics, row(0).size() + row(1).size());  // as --resume does
  append(metrics, replaced(row(2), "\"loss\": 2.5", "\"loss\": 2.25"));
  now = watch.data("0.4_0.2");
  CHECK(now[0]["generation"] == 1);
  CHECK(now[0]["from"] == 0);
  REQUIRE(now[0]["rows"].size() == 3);
  CHECK(now[0]["rows"][2]["loss"] == 2.25);

  fs::resize_file(metrics, row(0).size());  // and goes further before anyone looks
  append(metrics, replaced(row(1), "\"loss\": 2.5", "\"loss\": 2.75") + row(2) + row(3) + row(4));
  now = watch.data("1.3_0.2");
  CHECK(now[0]["generation"] == 2);
  CHECK(now[0]["rows"].size() == 5);
  CHECK(watch.data("2.5_0.2")[0]["rows"].empty());

  for (const char* nonsense : {"", "x", "2", "2.", "2.-1", "2.6", "-1.-1", ".....", "99999999999999999999999.1", "2.5;0.2"})  // whole, or what fits
    CHECK((watch.data(nonsense)[0]["rows"].size() == 5 || std::string(nonsense) == "2.5;0.2"));

  write(run / "status.json", R"({"step": 5, "ending": "", "seconds": 1.25})");
  CHECK((watch.data("2.5_0.2")[0]["left_out"] == "not ended" && watch.data("2.5_0.2")[0]["seconds"] == 1.25));
  write(run / "summary.json", R"({"steps": 5, "tokens": 17, "test_loss": 0.5, "test_accuracy": 0.5, "seconds": 1.5})");
  const Json ended = watch.data("2.5_0.2")[0];
  CHECK((ended["summary"]["tokens"] == 17 && ended["left_out"] == ""));
}

TEST_CASE("how settings differ by seed is told as runs end", "[watch]") {
  std::vector<fs::path> runs;
  for (const char* attention : {"softmax", "x^3"})
    for (const char* seed : {"1", "2"})
      runs.push_back(written_run(fmt::format("watch-seed-{}-{}", attention, seed),
                                 replaced(replaced(good_config, "\"seed\": 1", fmt::format("\"seed\": {}", seed)), "softmax", attention), row(0)));
  const Watching watch(runs);
  CHECK(data_of(watch.page().body)["differences"] == Json({"x^3 minus softmax: 0 seeds in common, two are needed"}));
  for (const fs::path& run : runs)
    write(run / "summary.json", R"({"steps": 5, "tokens": 17, "test_loss": 0.5, "test_accuracy": 0.5, "seconds": 1.5})");
  CHECK_THAT(watch.all("0.1_0.1_0.1_0.1")["differences"][0].get<std::string>(), StartsWith("x^3 minus softmax, by seed (2): 0.00 points, "));
}

TEST_CASE("a file that goes wrong while it is watched says so in the page, and keeps what there was", "[watch]") {
  const auto run = written_run("watch-wrong", good_config, row(0));
  const Watching watch({run});
  append(run / "metrics.jsonl", row(1) + "{\"step\": \n" + row(2));
  Json now = watch.data("0.1");
  CHECK(now[0]["rows"].size() == 1);
  CHECK_THAT(now[0]["note"].get<std::string>(), Contains("metrics.jsonl:3: JSON error"));
  write(run / "config.json", "[]");
  now = watch.data("0.0");
  CHECK(now[0]["rows"].size() == 2);
  CHECK_THAT(now[0]["note"].get<std::string>(), Contains("was the run made by another version of norma?"));
  fs::remove_all(run);
  now = watch.data("0.0");
  CHECK(now[0]["rows"].size() == 2);
  CHECK_THAT(now[0]["note"].get<std::string>(), Contains("there is no such folder"));
  CHECK(now[0]["quiet_seconds"].is_null());
  CHECK(now[0]["held"].is_null());
  CHECK(watch.page().status == 200);
}

TEST_CASE("a run whose process has gone is told from one that trains", "[watch]") {
  const auto run = written_run("watch-held", good_config, row(0));
  const Watching watch({run});
  CHECK(watch.data("0.1")[0]["held"].is_null());  // it was just written: its process may be one that is not listed here
  fs::last_write_time(run / "metrics.jsonl", fs::file_time_type::clock::now() - std::chrono::minutes(2));
  if (!train::FolderLock::listed(run)) return;  // no /proc/locks
  CHECK(watch.data("0.1")[0]["held"] == false);
  {
    const train::FolderLock lock(run);
    CHECK(watch.data("0.1")[0]["held"] == true);
    append(run / "metrics.jsonl", row(1));
  }
  CHECK(watch.data("0.2")[0]["held"] == false);  // at once
  CHECK_NOTHROW(train::FolderLock(run));

  const auto elsewhere = written_run("watch-held-elsewhere", good_config, row(0));
  const Watching other({elsewhere});
  append(elsewhere / "metrics.jsonl", row(1));
  CHECK(other.data("0.1")[0]["held"].is_null());
  fs::last_write_time(elsewhere / "metrics.jsonl", fs::file_time_type::clock::now() - std::chrono::minutes(2));
  CHECK(other.data("0.2")[0]["held"].is_null());  // it grew, and nobody held it: who does cannot be seen
}

TEST_CASE("a run that has not begun can be watched", "[watch]") {
  const auto run = fresh_folder("watch-early");
  write(run / "config.json", good_config);
  const Watching watch({run});
  CHECK(watch.page().status == 200);
  CHECK(watch.data("0.0")[0]["rows"].empty());
  write(run / "metrics.jsonl", row(0));
  CHECK(watch.data("0.0")[0]["rows"].size() == 1);
}

TEST_CASE("a run that is watched tells its N, and where its recorded matrices are to be seen", "[watch]") {
  const auto run = written_run("watch-tokens", replaced(good_config, "\"lr\"", "\"record\": \"blocks.*.attn\", \"lr\""), row(0));
  const Watching watch({run});
  CHECK(watch.data("0.0")[0]["tokens"] == 0);
  write(run / "status.json", R"({"step": 0, "ending": "", "seconds": 0, "tokens": 17})");
  const Json now = watch.data("0.0")[0];
  CHECK(now["tokens"] == 17);
  CHECK(now["recording"]["records"].empty());
  CHECK(now["recording"]["notes"][0] == "the matrices that --record keeps are not on this page; norma report shows them, also while the run goes on");
}

TEST_CASE("watch: run folders that cannot be shown, and wrong usage", "[watch]") {
  const fs::path here = fresh_folder("watch-bad");
  struct Case { std::vector<std::string> args; int code; std::string text; };
  auto check = [](const Case& c) {
    CAPTURE(c.args);
    const Finished f = run_norma(c.args);
    CHECK(f.code == c.code);
    CHECK(f.out.empty());
    CHECK_THAT(f.err, Equals(c.text));
  };
  check({{"watch"}, 2, "norma: watch: name the run folders, as in norma watch runs/a runs/b\n"});
  check({{"watch", "x", "--port", "80"}, 2, "norma: --port: 80 must be 0 or in [1024, 65535]\n"});
  check({{"watch", "x", "--port", "65536"}, 2, "norma: --port: 65536 must be 0 or in [1024, 65535]\n"});
  check({{"watch", "x", "--log-format", "xml"}, 2, "norma: --log-format: \"xml\" is unknown; there are text, json\n"});
  write(here / "a", "x");
  check({{"watch", (here / "a").string()}, 1, fmt::format("norma: run folder {}: is a file; name the run's folder, as in {}\n", (here / "a").string(), here.string())});
  fs::remove(here / "a");
  check({{"watch", "no-such-run"}, 1, "waiting for no-such-run to begin\nnorma: run folder no-such-run: there is no such folder\n"});
  check({{"watch", here.string()}, 1, fmt::format("waiting for {0} to begin\nnorma: run folder {0}: is empty; has norma train --out written there?\n", here.string())});
  write(here / "notes.txt", "x");
  check({{"watch", here.string()}, 1, fmt::format("waiting for {0} to begin\nnorma: run folder {0}: holds no config.json; is it a run?\n", here.string())});
  write(here / "config.json", replaced(good_config, "\"heads\"", "\"head_count\""));
  check({{"watch", here.string()}, 1,
         fmt::format("norma: {}: there is no \"heads\"; was the run made by another version of norma?\n", (here / "config.json").string())});
  write(here / "config.json", good_config);
  write(here / "metrics.jsonl", row(0) + replaced(row(1), "\"step\": 1", "\"iteration\": 1"));
  check({{"watch", here.string()}, 1,
         fmt::format("norma: {}:2: there is no \"step\"; was the run made by another version of norma?\n", (here / "metrics.jsonl").string())});
}

TEST_CASE("a port that is taken is named; it is free again after the end", "[watch]") {
  const auto run = written_run("watch-port", good_config, row(0));
  std::string port;
  {
    Watching watch({run});
    port = std::to_string(watch.port);
    CHECK(watch.page().status == 200);
    const Finished f = run_norma({"watch", run.string(), "--port", port});
    CHECK(f.code == 1);
    CHECK(f.out.empty());
    CHECK_THAT(f.err, Equals(fmt::format("norma: port {}: is taken by another program; choose another with --port, or any free one with --port 0\n", port)));
    watch.program().signal(SIGINT);
    CHECK(watch.program().wait().code == 0);
  }
  Watching again({run}, {"--port", port, "--log-format", "json"});
  const Json printed = Json::parse(again.printed());
  CHECK(std::to_string(printed["port"].get<int>()) == port);
  CHECK(printed["url"] == fmt::format("http://127.0.0.1:{}/?token={}", port, again.token));
  CHECK(printed["runs"] == Json::array({run.string()}));
  CHECK(again.page().status == 200);

  std::ifstream sockets("/proc/net/tcp");  // listens on 127.0.0.1, and nowhere else
  int found = 0;
  for (std::string line; std::getline(sockets, line);)
    if (line.find(fmt::format(":{:04X} 00000000:0000 0A", again.port)) != std::string::npos) {
      ++found;
      CHECK_THAT(line, Contains(fmt::format(" 0100007F:{:04X} ", again.port)));
    }
  CHECK(found == 1);
  again.program().signal(SIGTERM);
  const Finished end = again.program().wait();
  CHECK(end.code == 0);
  CHECK(end.err.empty());
}

TEST_CASE("a thousand idle connections leave the page answered", "[watch]") {
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  if (files.rlim_max < 1300) {
    WARN("the limit of open files, " << files.rlim_max << ", is too low for this test");
    return;
  }
  const rlimit before = files;
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, 1300);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
  const auto run = written_run("watch-idle", good_config, row(0));
  const Watching watch({run});
  std::vector<std::unique_ptr<Connection>> idle;
  for (int i = 0; i < 1100; ++i) {
    idle.push_back(std::make_unique<Connection>(watch.port));
    REQUIRE(idle.back()->open());
    if (i % 2) idle.back()->send("GET / HTTP/1.1\r\n");  // half of them began to speak
  }
  for (int i = 0; i < 20; ++i) CHECK(watch.page().status == 200);
  idle[1]->send(watch.host() + "Connection: close\r\n\r\n");  // and are still heard
  CHECK_THAT(idle[1]->receive(), StartsWith("HTTP/1.1 403"));
  idle.clear();
  CHECK(watch.page().status == 200);
  ::setrlimit(RLIMIT_NOFILE, &before);
}
