// The web server of `norma watch`: a page for readers on this machine, GET only, two addresses, everything from memory.
//
//   /       ?token=T          the page
//   /data   ?token=T&since=C  what is new since the cursor C
//
// Anything a browser carries here from another place ends before content is asked for: the Host must be this server's own address
// (a foreign name that resolves to 127.0.0.1 has another), an Origin must be its own too, and the token is known only to who read it
// from the terminal. No path is ever looked up on disk.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/dtype.h"

namespace norma::apps {

/// What is shown. Both are called by the server's one thread, never at once.
struct LiveContent {
  std::function<std::string(const std::string& nonce)> page;  // HTML; only scripts and styles that carry the nonce will run
  std::function<std::string(const std::string& since)> data;  // JSON; `since` is whatever the caller wrote there
};

/// Serves from its construction to its end, in a thread that sleeps until a connection speaks: idle ones cost memory alone, and are
/// closed after a minute.
class LiveServer {
 public:
  /// Listens on 127.0.0.1. `port` 0: any free one. Throws where the port is taken.
  LiveServer(Index port, LiveContent content);
  ~LiveServer();
  LiveServer(const LiveServer&) = delete;

  int port() const;
  /// http://127.0.0.1:PORT/?token=T, the one address that is answered.
  std::string url() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace norma::apps
