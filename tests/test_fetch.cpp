// `norma data get`: from a folder and from an HTTP server on loopback that the test itself is; nothing wrong ever takes
// a name.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <limits>
#include <map>
#include <thread>

#include "core/error.h"
#include "core/sha256.h"
#include "datasets/fetch.h"
#include "datasets/http.h"
#include "tests/errors.h"
#include "tests/folders.h"

namespace fs = std::filesystem;
using namespace norma;
using norma::test::contents;
using norma::test::error_of;
using norma::test::files_in;
using norma::test::TemporaryFolder;
using namespace norma::datasets;

namespace {

void write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
std::string gzipped(const std::string& bytes, const fs::path& scratch) {
  gzFile f = gzopen(scratch.c_str(), "wb");
  gzwrite(f, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(f);
  return contents(scratch);
}

using Answers = std::map<std::string, std::string>;

/// Answers every connection with the raw bytes kept for its path; unknown paths get 404.
class Server {
 public:
  explicit Server(Answers answers) : answers_(std::move(answers)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(listen(listener_, 8) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  std::string url(const std::string& path = "") const { return fmt::format("http://127.0.0.1:{}{}", port, path); }

  int port = 0;
  std::atomic<int> requests{0};
  std::string last_request;  // read after the client has its answer

 private:
  void serve() {
    for (int fd = accept(listener_, nullptr, nullptr); fd >= 0; fd = accept(listener_, nullptr, nullptr)) {
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        request.append(buffer, static_cast<std::size_t>(n));
      }
      last_request = request;
      ++requests;
      const std::string path = request.substr(4, request.find(' ', 4) - 4);
      const auto found = answers_.find(path);
      const std::string answer =
          found != answers_.end() ? found->second : "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
      if (!answer.empty()) send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      if (answer.empty()) recv(fd, buffer, sizeof buffer, 0);  // silence: wait until the client gives up
      close(fd);
    }
  }
  Answers answers_;
  int listener_ = -1;
  std::thread thread_;
};

std::string ok(const std::string& body) {
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.size(), body);
}

std::string hash_of(const std::string& s) { return sha256(std::as_bytes(std::span(s.data(), s.size()))); }

const std::string content_a = std::string(5000, 'a') + "end of a", content_b = "the other file";

KnownSet tiny_set() {
  return {"tiny",
          "tiny-folder",
          true,
          {{"a", content_a.size(), hash_of(content_a)}, {"b", content_b.size(), hash_of(content_b)}},
          0, 0,
          {},
          "",
          "",
          "the shelf",
          "go and fetch it"};
}

std::string body_of(const std::string& url, std::uint64_t max = 1000, int seconds = 5) {
  std::string body;
  const int status = http_get(url, {max, seconds}, [&](std::span<const std::byte> bytes, std::uint64_t) {
    body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  return fmt::format("{} {}", status, body);
}

}  // namespace

TEST_CASE("fetch: from a folder, packed or not, and only what is missing", "[fetch]") {
  const TemporaryFolder dir;
  const fs::path shelf = dir.path / "shelf", data = dir.path / "data";
  fs::create_directories(shelf / "tiny-folder");
  const std::string packed = gzipped(content_a, dir.path / "scratch");
  write(shelf / "tiny-folder" / "a.gz", packed);
  write(shelf / "b", content_b);
  std::vector<std::string> seen;
  const auto progress = [&](const std::string& file, std::uint64_t done, std::uint64_t total) {
    seen.push_back(fmt::format("{} {}/{}", file, done, total));
  };
  CHECK(fetch(tiny_set(), shelf.string(), data, progress) == data / "tiny");
  CHECK(contents(data / "tiny" / "a.gz") == packed);
  CHECK(contents(data / "tiny" / "b") == content_b);
  CHECK(files_in(data / "tiny") == 2);
  CHECK(seen == std::vector<std::string>{fmt::format("a.gz {0}/{0}", packed.size()),
                                         fmt::format("b {0}/{0}", content_b.size())});
  fs::remove_all(shelf);
  fs::create_directory(shelf);
  CHECK_NOTHROW(fetch(tiny_set(), shelf.string(), data));  // all is there: nothing is needed from the source
}

TEST_CASE("fetch: what a killed process left half-written is removed, what another is writing is not", "[fetch]") {
  const TemporaryFolder dir;
  const fs::path shelf = dir.path / "shelf", home = dir.path / "data" / "tiny";
  fs::create_directories(shelf);
  fs::create_directories(home);
  write(shelf / "a", content_a);
  write(shelf / "b", content_b);
  const std::string gone = fmt::format("{}", std::numeric_limits<int>::max()), here = fmt::format("{}", ::getppid());
  for (const std::string& name : {".a.gz." + gone + "-0.tmp", ".b." + gone + "-3.tmp", ".b." + here + "-0.tmp", std::string(".b.tmp"), std::string("b.tmp")}) write(home / name, "half");
  fetch(tiny_set(), shelf.string(), dir.path / "data");
  CHECK(!fs::exists(home / (".a.gz." + gone + "-0.tmp")));
  CHECK(!fs::exists(home / (".b." + gone + "-3.tmp")));
  CHECK(fs::exists(home / (".b." + here + "-0.tmp")));
  CHECK(files_in(home) == 5);
}

TEST_CASE("fetch: a wrong file is refused and an old one stays", "[fetch]") {
  const TemporaryFolder dir;
  const fs::path shelf = dir.path / "shelf", home = dir.path / "data" / "tiny";
  fs::create_directories(shelf);
  fs::create_directories(home);
  write(home / "a", "old");
  const auto get = [&] { return error_of([&] { fetch(tiny_set(), shelf.string(), dir.path / "data"); }); };
  const std::string a = (shelf / "a").string(), a_gz = (shelf / "a.gz").string();

  CHECK(get() == shelf.string() + ": a[.gz] is not there; the shelf has the files of tiny");
  std::string wrong = content_a;
  wrong[2500] = 'b';
  write(shelf / "a", wrong);
  CHECK(get() == fmt::format("{}: SHA-256 is {}, expected {}; not taken", a, hash_of(wrong), hash_of(content_a)));
  write(shelf / "a", content_a.substr(1));
  CHECK(get() == a + ": holds 5007 bytes, expected 5008; not taken");
  write(shelf / "a", content_a + "!");
  CHECK(get() == a + ": holds more than 5008 bytes; not taken");
  write(shelf / "a", std::string(100'000, 'x'));
  CHECK(get() == a + ": 100000 bytes, expected at most 9154; not taken");
  const std::string packed = gzipped(content_a, dir.path / "scratch");
  write(shelf / "a.gz", packed.substr(0, packed.size() - 3));
  CHECK(get() == fmt::format("{}: the gzip data ends too early (truncated file of {} bytes); not taken", a_gz,
                             packed.size() - 3));
  write(shelf / "a.gz",
        gzipped(std::string(1'000'000, 'x'), dir.path / "scratch"));  // unpacks to far more than it should
  CHECK(get() == a_gz + ": holds more than 5008 bytes; not taken");
  CHECK(contents(home / "a") == "old");
  CHECK(files_in(home) == 1);

  write(shelf / "a.gz", packed);
  CHECK(get() == shelf.string() + ": b[.gz] is not there; the shelf has the files of tiny");
  CHECK(contents(home / "a.gz") == packed);
  CHECK(files_in(home) == 1);  // the damaged unpacked form has made room
}

TEST_CASE("fetch: from a server", "[fetch]") {
  const TemporaryFolder dir;
  const fs::path home = dir.path / "tiny";
  const std::string packed = gzipped(content_a, dir.path / "scratch");
  const Server server(
      Answers{{"/x/a.gz", ok(packed)},
              {"/x/b", ok(content_b)},
              {"/bad/a", ok("something else")},
              {"/half/a", "HTTP/1.1 200 OK\r\nContent-Length: 5008\r\n\r\n" + content_a.substr(0, 4000)},
              {"/error/a.gz", "HTTP/1.1 503 Busy\r\n\r\n"}});
  const auto get = [&](const std::string& path) {
    return error_of([&] { fetch(tiny_set(), server.url(path), dir.path); });
  };
  CHECK(get("/bad") == fmt::format("{}: holds 14 bytes, expected 5008; not taken", server.url("/bad/a")));
  CHECK(get("/half") == server.url("/half/a") + ": the connection ended after 4000 of 5008 bytes");
  CHECK(get("/error") == server.url("/error/a.gz") + ": the server answers 503");
  CHECK(get("/none") == server.url("/none") + ": the server has no a[.gz]");
  CHECK(files_in(home) == 0);
  std::uint64_t done = 0, total = 0;
  fetch(tiny_set(), server.url("/x/"), dir.path, [&](const std::string& file, std::uint64_t d, std::uint64_t t) {
    if (file == "a.gz") done = d, total = t;
  });
  CHECK(done == packed.size());
  CHECK(total == packed.size());
  CHECK(contents(home / "a.gz") == packed);
  CHECK(contents(home / "b") == content_b);
  CHECK(files_in(home) == 2);
  const int before = server.requests;
  fetch(tiny_set(), server.url("/x"), dir.path);
  CHECK(server.requests == before);
}

TEST_CASE("fetch: a caller may stop half way", "[fetch]") {
  const TemporaryFolder dir;
  const Server server(Answers{{"/a", ok(content_a)}});
  CHECK(error_of([&] { fetch(tiny_set(), server.url(), dir.path, [](auto&&...) { throw Error("enough"); }); }) ==
        "enough");
  CHECK(files_in(dir.path / "tiny") == 0);
}

TEST_CASE("fetch: sources that cannot be used", "[fetch]") {
  const TemporaryFolder dir;
  const auto get = [&](const std::string& from) { return error_of([&] { fetch(known_set("fashion-mnist"), from, dir.path); }); };
  CHECK(
      get("") ==
      "data set \"fashion-mnist\": say from where; apt install dataset-fashion-mnist, or norma data get fashion-mnist "
      "--from FOLDER|URL");
  CHECK(get("https://example.org/x") ==
        "https://example.org/x: only http:// and folders can be fetched from; download the files of "
        "https://github.com/zalandoresearch/fashion-mnist by hand and use --from FOLDER");
  CHECK(get("/no/such/folder") == "/no/such/folder: is not a folder");
  CHECK(error_of([&] { fetch(known_set("fashion"), "x", dir.path); }) ==
        "data set \"fashion\" is unknown; there are fashion-mnist, cifar-10. Images of your own go in as fashion-mnist's four files with a "
        "class-names.txt, in a folder for --data-dir: docs/own-images.md");
  write(dir.path / "file", "");
  CHECK(error_of([&] { fetch(tiny_set(), dir.path.string(), dir.path / "file"); }) ==
        (dir.path / "file" / "tiny").string() + ": cannot be created, not a directory");
  CHECK(files_in(dir.path) == 1);
}

TEST_CASE("fetch: HTTP as servers speak it", "[fetch]") {
  const Server server(
      Answers{{"/", ok("root")},
              {"/q?a=1", ok("query")},
              {"/close", "HTTP/1.0 200 OK\r\n\r\nuntil the end"},
              {"/chunked",
               "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5;ext=1\r\nhello\r\nA\r\n, chunked!\r\n0\r\n\r\n"},
              {"/chunk-cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"},
              {"/chunk-long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"},
              {"/chunk-bad", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
              {"/moved", "HTTP/1.1 302 Found\r\nLocation: /chunked\r\n\r\n"},
              {"/q/moved", "HTTP/1.1 302 Found\r\nLocation: there/x\r\n\r\n"},
              {"/q/up", "HTTP/1.1 302 Found\r\nLocation: ../q/./there/x?a=/../b\r\n\r\n"},
              {"/q/query?a=1/2", "HTTP/1.1 302 Found\r\nLocation: ?b\r\n\r\n"},
              {"/q/query?b", ok("of b")},
              {"/q/there/x", ok("there")},
              {"/q/there/x?a=/../b", ok("there too")},
              {"/early", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok("late")},
              {"/loop", "HTTP/1.1 301 Moved\r\nLocation: /loop\r\n\r\n"},
              {"/tls", "HTTP/1.1 301 Moved\r\nLocation: https://example.org/x\r\n\r\n"},
              {"/long", "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"},
              {"/endless", "HTTP/1.1 200 OK\r\n\r\n" + std::string(1001, 'x')},
              {"/length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"},
              {"/huge", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"},
              {"/gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"},
              {"/head", "HTTP/1.1 200 OK\r\nX: " + std::string(200'000, 'x') + "\r\n\r\n"},
              {"/heads", "HTTP/1.1 200 OK\r\n" +
                             [] {
                               std::string s;
                               for (int i = 0; i < 9000; ++i) s += "X: yyyyyyyy\r\n";
                               return s;
                             }() +
                             "\r\n"},
              {"/cut", "HTTP/1.1 200 OK\r\nContent-"},
              {"/smtp", "220 mail ready\r\n"},
              {"/escape", "HTTP/1.1 301 Moved\r\nLocation: https://x/\x1b[2J" + std::string("\0\xff", 2) + "\r\n\r\n"},
              {"/escape-here", "HTTP/1.1 301 Moved\r\nLocation: /\x1b]0;title\x07\r\n\r\n"},
              {"/escape-c1", "HTTP/1.1 301 Moved\r\nLocation: /\xc2\x9b" "31m\r\n\r\n"},
              {"/\xc2\x9b" "31m", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
              {"/escape-length", "HTTP/1.1 200 OK\r\nContent-Length: \x1b[1m\r\n\r\n"},
              {"/escape-coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x1b[1m\r\n\r\n"},
              {"/far", "HTTP/1.1 301 Moved\r\nLocation: https://x/" + std::string(60'000, 'y') + "\r\n\r\n"}});
  const auto get = [&](const std::string& path) {
    std::string text;
    const std::string error = error_of([&] { text = body_of(server.url(path)); });
    return error == "no error" ? text : error.starts_with(server.url()) ? error.substr(server.url().size()) : error;
  };
  CHECK(get("") == "200 root");
  CHECK(server.last_request ==
        fmt::format("GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUser-Agent: norma\r\nAccept-Encoding: identity\r\n"
                    "Connection: close\r\n\r\n",
                    server.port));
  CHECK(get("/q?a=1#part") == "200 query");
  CHECK(get("?b") == "404 ");
  CHECK(get("/close") == "200 until the end");
  CHECK(get("/chunked") == "200 hello, chunked!");
  CHECK(get("/moved") == "200 hello, chunked!");
  CHECK(get("/q/moved") == "200 there");
  CHECK(get("/q/up") == "200 there too");
  CHECK(get("/q/query?a=1/2") == "200 of b");
  CHECK(get("/early") == "200 late");
  const Server front(Answers{{"/elsewhere", fmt::format("HTTP/1.1 302 Found\r\nLocation: //127.0.0.1:{}/q/there/x\r\n\r\n", server.port)}});
  CHECK(body_of(front.url("/elsewhere")) == "200 there");
  CHECK(get("/nowhere") == "404 ");
  CHECK(get("/chunk-cut") == "/chunk-cut: the connection ended after 3 bytes");
  CHECK(get("/chunk-long") == "/chunk-long: a chunk is longer than it says");
  CHECK(get("/chunk-bad") == "/chunk-bad: the answer's chunk size \"xyz\" is no number");
  CHECK(get("/loop") == "/loop: more than 5 redirects");
  CHECK(get("/tls") ==
        "https://example.org/x: only http:// addresses can be fetched; download the files and use --from FOLDER");
  CHECK(get("/long") == "/long: 1001 bytes, expected at most 1000");
  CHECK(get("/endless") == "/endless: more than the expected 1000 bytes");
  CHECK(get("/length") == "/length: the answer's length \"-5\" is no number");
  CHECK(get("/huge") == "/huge: the answer's length \"99999999999999999999999\" is no number");
  CHECK(get("/gzip") == "/gzip: transfer encoding \"gzip\" is not supported");
  CHECK(get("/head") == "/head: the answer's header is longer than 65536 bytes");
  CHECK(get("/heads") == "/heads: the answer's header is longer than 65536 bytes");
  CHECK(get("/cut") == "/cut: the connection ended inside the answer's header");
  CHECK(get("/smtp") == "/smtp: the answer is not HTTP");
  CHECK(get("/escape") == "https://x/\\x1b[2J\\x00\\xff: only http:// addresses can be fetched; download the files and use --from FOLDER");
  CHECK(get("/escape-here") == "/\\x1b]0;title\\x07: is not a valid address");
  CHECK(get("/escape-c1") == "/\\xc2\\x9b31m: the connection ended after 0 of 5 bytes");
  CHECK(get("/escape-length") == "/escape-length: the answer's length \"\\x1b[1m\" is no number");
  CHECK(get("/escape-coding") == "/escape-coding: transfer encoding \"\\x1b[1m\" is not supported");
  CHECK(get("/far").size() < 1200);
}

TEST_CASE("fetch: servers that are not there or silent", "[fetch]") {
  int port = 0;
  {
    const Server gone(Answers{});
    port = gone.port;
  }
  CHECK(error_of([&] { body_of(fmt::format("http://127.0.0.1:{}/", port)); }) ==
        fmt::format("http://127.0.0.1:{0}/: no connection to 127.0.0.1 port {0}, connection refused", port));
  const Server silent(Answers{{"/", std::string()}});
  CHECK(error_of([&] { body_of(silent.url("/"), 1000, 1); }) ==
        silent.url("/") + ": the server stopped answering, timed out");
  CHECK(error_of([] { body_of("http:///x"); }) == "http:///x: is not a valid address");
  CHECK(error_of([] { body_of("http://a b/"); }) == "http://a b/: is not a valid address");
  CHECK(error_of([] { body_of("http://h:/"); }) == "http://h:/: is not a valid address");
  for (const int wrong : {0, 65536, 65536 + silent.port}) {  // the resolver would take the last for the port of `silent`
    const std::string url = fmt::format("http://127.0.0.1:{}/", wrong);
    CHECK(error_of([&] { body_of(url, 1000, 1); }) == url + ": is not a valid address");
  }
  CHECK(error_of([] { body_of("http://h:-1/"); }) == "http://h:-1/: is not a valid address");
  CHECK(error_of([] { body_of("http://h:8o/"); }) == "http://h:8o/: is not a valid address");
  CHECK(error_of([] { body_of("http://h/\r\nX: y"); }) == "http://h/\\x0d\\x0aX: y: is not a valid address");
  CHECK_THAT(error_of([] { body_of("http://[::1]/x", 1000, 1); }), !Catch::Contains("cannot be found"));
  CHECK_THAT(error_of([] { body_of("http://host.invalid/"); }),
             Catch::StartsWith("http://host.invalid/: host host.invalid cannot be found, "));
}
