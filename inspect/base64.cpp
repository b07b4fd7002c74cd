#include "inspect/base64.h"

namespace norma::inspect {

std::string base64(const void* data, std::size_t bytes) {
  constexpr char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* p = static_cast<const unsigned char*>(data);
  std::string out;
  out.reserve((bytes + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes; i += 3) {
    const unsigned word = p[i] << 16 | (i + 1 < bytes ? p[i + 1] << 8 : 0) | (i + 2 < bytes ? p[i + 2] : 0);
    for (int shift = 18; shift >= 0; shift -= 6) out += letters[word >> shift & 63];
  }
  if (bytes % 3) out.replace(out.size() - (3 - bytes % 3), 3 - bytes % 3, 3 - bytes % 3, '=');
  return out;
}

}  // namespace norma::inspect
