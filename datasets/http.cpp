// HTTP/1.1 after RFC 9112, as much as a GET needs.
#include "datasets/http.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/text.h"

namespace norma::datasets {

namespace {

constexpr std::size_t max_head = 64 * 1024;
constexpr int max_redirects = 5, max_interim = 16;

struct Address {
  std::string host, port = "80", path = "/";
  std::string authority;  // as the Host header wants it
};

/// An address as messages have it: also one that a server sends its readers to.
std::string told(const std::string& url) { return printable(shortened(url, 1024)); }

bool is_port(std::string_view text) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && port >= 1 && port <= 65535;
}

Address parse_url(const std::string& url) {
  constexpr std::string_view scheme = "http://";
  if (!url.starts_with(scheme))
    fail("{}: only http:// addresses can be fetched; download the files and use --from FOLDER", told(url));
  const std::string rest = url.substr(scheme.size());
  Address a;
  a.authority = rest.substr(0, rest.find_first_of("/?#"));
  if (rest.size() > a.authority.size()) a.path = rest.substr(a.authority.size(), rest.find('#') - a.authority.size());
  if (a.path[0] != '/') a.path = "/" + a.path;
  a.host = a.authority;
  const std::size_t colon = a.host.rfind(':'), bracket = a.host.rfind(']');
  if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
    a.port = a.host.substr(colon + 1);
    a.host = a.host.substr(0, colon);
  }
  if (a.host.starts_with('[') && a.host.ends_with(']')) a.host = a.host.substr(1, a.host.size() - 2);
  const auto bad = [](unsigned char c) { return c <= ' ' || c == 0x7f; };
  if (a.host.empty() || !is_port(a.port) || std::any_of(url.begin(), url.end(), bad))
    fail("{}: is not a valid address", told(url));
  return a;
}

class Connection {
 public:
  Connection(const std::string& url, const Address& address, int seconds) : url_(url) {
    addrinfo hints{}, *list = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int code = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &list); code != 0) {
      fail("{}: host {} cannot be found, {}", url, told(address.host), gai_strerror(code));
    }
    int error = 0;
    for (const addrinfo* a = list; a != nullptr && fd_ < 0; a = a->ai_next) {
      fd_ = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
      const timeval limit{seconds, 0};  // on Linux the send limit holds for connect() as well
      if (fd_ >= 0 && setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
          setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
          connect(fd_, a->ai_addr, a->ai_addrlen) == 0) {
        break;
      }
      error = errno;
      if (fd_ >= 0) close(fd_);
      fd_ = -1;
    }
    freeaddrinfo(list);
    if (fd_ < 0) fail("{}: no connection to {} port {}, {}", url, told(address.host), address.port, reason(error));
  }
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("{}: the request could not be sent, {}", url_, reason(errno));
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  /// More bytes into the buffer; false at the end.
  bool fill() {
    if (begin_ > 0) buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
    const std::size_t held = buffer_.size();
    buffer_.resize(held + 65536);
    ssize_t n;
    do {
      n = recv(fd_, buffer_.data() + held, 65536, 0);
    } while (n < 0 && errno == EINTR);
    buffer_.resize(held + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) fail("{}: the server stopped answering, {}", url_, reason(errno));
    return n > 0;
  }
  std::string_view held() const { return {buffer_.data() + begin_, buffer_.size() - begin_}; }
  void take(std::size_t bytes) { begin_ += bytes; }

  /// One line without its end; `what` for the message.
  std::string line(const char* what) {
    for (;;) {
      const std::string_view text = held();
      if (const std::size_t end = text.find('\n'); end != text.npos) {
        std::string found(text.substr(0, end));
        if (found.ends_with('\r')) found.pop_back();
        take(end + 1);
        return found;
      }
      if (text.size() > max_head) fail("{}: the answer's {} is longer than {} bytes", url_, what, max_head);
      if (!fill()) fail("{}: the connection ended inside the answer's {}", url_, what);
    }
  }

 private:
  static std::string reason(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINPROGRESS ? "timed out" : error_text(error);
  }
  const std::string& url_;
  int fd_ = -1;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
};

struct Head {
  int status = 0;
  bool has_length = false, chunked = false;
  std::uint64_t length = 0;
  std::string location;
};

std::uint64_t number(std::string_view text, int base, const std::string& url, const char* what) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size())
    fail("{}: the answer's {} {} is no number", url, what, in_quotes(text));
  return value;
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

Head read_head(Connection& connection, const std::string& url) {
  Head head;
  const std::string first = connection.line("status");
  if (!first.starts_with("HTTP/1.") || first.size() < 12) fail("{}: the answer is not HTTP", url);
  head.status = static_cast<int>(number(first.substr(9, 3), 10, url, "status"));
  std::size_t total = 0;
  for (std::string field = connection.line("header"); !field.empty(); field = connection.line("header")) {
    total += field.size();
    if (total > max_head) fail("{}: the answer's header is longer than {} bytes", url, max_head);
    const std::size_t colon = std::min(field.find(':'), field.size());
    const std::string key = lower(field.substr(0, colon));
    std::string value = field.substr(std::min(colon + 1, field.size()));
    value.erase(0, value.find_first_not_of(" \t"));
    value.erase(value.find_last_not_of(" \t") + 1);
    if (key == "content-length") {
      head.length = number(value, 10, url, "length");
      head.has_length = true;
    } else if (key == "transfer-encoding") {
      if (lower(value) != "chunked") fail("{}: transfer encoding {} is not supported", url, in_quotes(value));
      head.chunked = true;
    } else if (key == "location") {
      head.location = value;
    }
  }
  return head;
}

/// The answer's head; interim ones (103 Early Hints, say) are passed over.
Head final_head(Connection& connection, const std::string& url) {
  for (int interim = 0; interim <= max_interim; ++interim)
    if (Head head = read_head(connection, url); head.status >= 200) return head;
  fail("{}: more than {} interim answers", url, max_interim);
}

/// Where `location`, of an answer to `address`, leads (RFC 3986, 5.2).
std::string redirected(const Address& address, const std::string& location) {
  const std::size_t colon = location.find(':');
  if (colon != std::string::npos && colon < location.find_first_of("/?#")) return location;  // has a scheme
  if (location.starts_with("//")) return "http:" + location;
  const std::string here = address.path.substr(0, address.path.find('?'));
  const std::string name = location.substr(0, location.find_first_of("?#"));
  const std::string path = name.empty()            ? here
                           : name.starts_with('/') ? name
                                                   : here.substr(0, here.rfind('/') + 1) + name;
  return "http://" + address.authority + std::filesystem::path(path).lexically_normal().string() +
         location.substr(name.size());
}

}  // namespace

int http_get(const std::string& url, const HttpLimits& limits,
             const std::function<void(std::span<const std::byte>, std::uint64_t)>& sink) {
  std::string at = url;
  for (int hop = 0; hop <= max_redirects; ++hop) {
    const Address address = parse_url(at);
    const std::string name = told(at);
    Connection connection(name, address, limits.seconds);
    connection.send(
        fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: norma\r\nAccept-Encoding: identity\r\n"
                    "Connection: close\r\n\r\n",
                    address.path, address.authority));
    const Head head = final_head(connection, name);
    if (head.status >= 301 && head.status <= 308 && !head.location.empty()) {
      at = redirected(address, head.location);
      continue;
    }
    if (head.status != 200) return head.status;
    const std::uint64_t total = head.chunked ? 0 : head.length;
    if (total > limits.max_bytes) fail("{}: {} bytes, expected at most {}", name, total, limits.max_bytes);

    std::uint64_t done = 0;
    const auto pass_on =
        [&](std::uint64_t bytes) {  // the next `bytes` of the body; false when the connection ends first
          while (bytes > 0) {
            if (connection.held().empty() && !connection.fill()) return false;
            const std::string_view text =
                connection.held().substr(0, std::min<std::uint64_t>(bytes, connection.held().size()));
            done += text.size();
            if (done > limits.max_bytes) fail("{}: more than the expected {} bytes", name, limits.max_bytes);
            sink(std::as_bytes(std::span(text.data(), text.size())), total);
            bytes -= text.size();
            connection.take(text.size());
          }
          return true;
        };
    if (head.chunked) {
      for (;;) {
        const std::string size_line = connection.line("chunk");
        const std::uint64_t size = number(size_line.substr(0, size_line.find_first_of("; \t")), 16, name, "chunk size");
        if (size == 0) return 200;
        if (!pass_on(size)) fail("{}: the connection ended after {} bytes", name, done);
        if (!connection.line("chunk").empty()) fail("{}: a chunk is longer than it says", name);
      }
    }
    if (!pass_on(head.has_length ? head.length : limits.max_bytes + 1) && head.has_length) {
      fail("{}: the connection ended after {} of {} bytes", name, done, head.length);
    }
    return 200;
  }
  fail("{}: more than {} redirects", told(url), max_redirects);
}

}  // namespace norma::datasets
