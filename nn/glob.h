// Patterns of dotted names: * any run of characters, {a,b} alternatives, which may hold both; a { without its } is a
// letter. The time is the pattern's length by the name's.
#pragma once

#include <string_view>

namespace norma::nn {

bool glob_match(std::string_view glob, std::string_view text);

}  // namespace norma::nn
