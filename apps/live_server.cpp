#include "apps/live_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace norma::apps {
namespace {

constexpr rlim_t most_connections = 4000, other_files = 64;
constexpr unsigned idle_seconds = 60;
constexpr std::size_t bytes_a_connection = 16 * 1024;  // holds a request's head; a longer one is refused

/// 128 bits that nobody can guess, in hex.
std::string secret() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
    fail("watch: the system gives no random bytes ({})", std::strerror(errno));
  std::string text;
  for (unsigned char b : bytes) text += fmt::format("{:02x}", b);
  return text;
}

/// Looks at every character, so that the time taken does not tell how many are right.
bool same_secret(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

int listen_on_loopback(Index port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  if (fd < 0) fail("port {}: cannot be opened ({})", port, std::strerror(errno));
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // a port just left is free again
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 && ::listen(fd, SOMAXCONN) == 0)
    return fd;
  const int error = errno;
  ::close(fd);
  if (error == EADDRINUSE)
    fail("port {}: is taken by another program; choose another with --port, or any free one with --port 0", port);
  fail("port {}: cannot be listened on ({}); choose another with --port, or any free one with --port 0", port,
       std::strerror(error));
}

int port_of(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail("watch: the port is not known ({})", std::strerror(errno));
  return ntohs(address.sin_port);
}

/// Raises the limit of open files as far as is allowed and useful.
unsigned possible_connections() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t wanted = std::min(files.rlim_max, most_connections + other_files);
  if (files.rlim_cur < wanted) {
    files.rlim_cur = wanted;
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::getrlimit(RLIMIT_NOFILE, &files);
  }
  return static_cast<unsigned>(
      std::min(files.rlim_cur > 2 * other_files ? files.rlim_cur - other_files : other_files, most_connections));
}

std::vector<std::string> header_values(MHD_Connection* connection, const char* name) {
  struct Search {
    const char* name;
    std::vector<std::string> found;
  } search{name, {}};
  auto take = [](void* context, MHD_ValueKind, const char* key, const char* value) {
    auto& s = *static_cast<Search*>(context);
    if (::strcasecmp(key, s.name) == 0) s.found.emplace_back(value ? value : "");
    return MHD_YES;
  };
  MHD_get_connection_values(connection, MHD_HEADER_KIND, take, &search);
  return search.found;
}

std::string argument(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
  return value ? value : "";
}

struct Reply {
  unsigned status;
  std::string body;
  const char* type = "text/plain; charset=utf-8";
  std::string nonce = {};  // of a page: what may run in it
};

MHD_Result send(MHD_Connection* connection, const Reply& reply) {
  std::string policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  if (!reply.nonce.empty())
    policy += fmt::format("; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'", reply.nonce);
  MHD_Response* response =
      MHD_create_response_from_buffer(reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_MUST_COPY);
  if (!response) return MHD_NO;
  const std::pair<const char*, const char*> headers[] = {{"Content-Type", reply.type},
                                                         {"Content-Security-Policy", policy.c_str()},
                                                         {"X-Content-Type-Options", "nosniff"},
                                                         {"Referrer-Policy", "no-referrer"},
                                                         {"Cache-Control", "no-store"},
                                                         {"Cross-Origin-Resource-Policy", "same-origin"},
                                                         {"Cross-Origin-Opener-Policy", "same-origin"}};
  for (const auto& [name, value] : headers) MHD_add_response_header(response, name, value);
  if (reply.status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(response, "Allow", "GET");
  const MHD_Result queued = MHD_queue_response(connection, reply.status, response);
  MHD_destroy_response(response);
  return queued;
}

}  // namespace

struct LiveServer::Impl {
  LiveContent content;
  std::string token = secret();
  int port = 0;
  MHD_Daemon* daemon = nullptr;

  /// Whether `text` is one of the two names of this server, after `before`.
  bool is_own(const std::string& text, const std::string& before) const {
    return text == fmt::format("{}127.0.0.1:{}", before, port) || text == fmt::format("{}localhost:{}", before, port);
  }

  Reply answer(MHD_Connection* connection, const std::string& path, const std::string& method) const {
    const auto hosts = header_values(connection, "Host"), origins = header_values(connection, "Origin");
    if (hosts.size() != 1 || !is_own(hosts[0], ""))
      return {MHD_HTTP_FORBIDDEN,
              fmt::format("only 127.0.0.1:{0} and localhost:{0} are answered; forward the port under the same number\n",
                          port)};
    if (origins.size() > 1 || (origins.size() == 1 && !is_own(origins[0], "http://")))
      return {MHD_HTTP_FORBIDDEN, "other pages are not answered\n"};
    if (method != "GET") return {MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n"};
    if (path != "/" && path != "/data") return {MHD_HTTP_NOT_FOUND, "there are / and /data\n"};
    if (!same_secret(argument(connection, "token"), token))
      return {MHD_HTTP_FORBIDDEN, "the token is missing or wrong; open the address that norma watch printed\n"};
    if (path == "/data")
      return {MHD_HTTP_OK, content.data(argument(connection, "since")), "application/json; charset=utf-8"};
    const std::string nonce = secret();
    return {MHD_HTTP_OK, content.page(nonce), "text/html; charset=utf-8", nonce};
  }

  /// Nothing is decoded: a path or an argument is right as it is sent, or wrong.
  static std::size_t leave_escaped(void*, MHD_Connection*, char* text) noexcept { return std::strlen(text); }

  /// The first and only call for a request: it is answered before a body that it may have is read.
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* path, const char* method,
                               const char*, const char*, std::size_t*, void**) noexcept {
    try {
      return send(connection, static_cast<const Impl*>(self)->answer(connection, path, method));
    } catch (const std::exception& e) {
      try {
        return send(connection, {MHD_HTTP_INTERNAL_SERVER_ERROR, std::string(e.what()) + "\n"});
      } catch (...) {
        return MHD_NO;  // no memory: this connection is closed, the others go on
      }
    }
  }
};

LiveServer::LiveServer(Index port, LiveContent content) : impl_(std::make_unique<Impl>()) {
  impl_->content = std::move(content);
  const int fd = listen_on_loopback(port);
  impl_->port = port_of(fd);
  impl_->daemon =
      MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, nullptr, nullptr, &Impl::on_request, impl_.get(),  //
                       MHD_OPTION_LISTEN_SOCKET, fd,                                                        //
                       MHD_OPTION_CONNECTION_LIMIT, possible_connections(),                                 //
                       MHD_OPTION_CONNECTION_TIMEOUT, idle_seconds,                                         //
                       MHD_OPTION_CONNECTION_MEMORY_LIMIT, bytes_a_connection,                              //
                       MHD_OPTION_UNESCAPE_CALLBACK, &Impl::leave_escaped, nullptr,                         //
                       MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
  if (!impl_->daemon) fail("port {}: the server does not start ({})", impl_->port, std::strerror(errno));
}

LiveServer::~LiveServer() { MHD_stop_daemon(impl_->daemon); }

int LiveServer::port() const { return impl_->port; }

std::string LiveServer::url() const { return fmt::format("http://127.0.0.1:{}/?token={}", impl_->port, impl_->token); }

}  // namespace norma::apps
