// Bytes as text, for pages.
#pragma once

#include <cstddef>
#include <string>

namespace norma::inspect {

std::string base64(const void* data, std::size_t bytes);

}  // namespace norma::inspect
