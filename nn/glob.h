// Patterns of dotted names: * any run of characters, {a,b} alternatives.
#pragma once

#include <string_view>

namespace norma::nn {

bool glob_match(std::string_view glob, std::string_view text);

}  // namespace norma::nn
