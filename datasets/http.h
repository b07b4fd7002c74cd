// The smallest client that fetches a file: HTTP/1.1 GET over a plain socket, with redirects, chunked bodies, time
// limits and a limit of size. No TLS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace norma::datasets {

struct HttpLimits {
  std::uint64_t max_bytes = 0;  // of the body
  int seconds = 30;             // without any progress
};

/// Hands the body to `sink(bytes, total)` piece by piece (total 0: unknown). Returns the status; the body of anything
/// but 200 is not read. Throws naming the address on network errors, a cut-off body, or more bytes than allowed.
int http_get(const std::string& url, const HttpLimits& limits,
             const std::function<void(std::span<const std::byte>, std::uint64_t total)>& sink);

}  // namespace norma::datasets
