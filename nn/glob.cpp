#include "nn/glob.h"

#include <algorithm>
#include <string>

namespace norma::nn {

bool glob_match(std::string_view glob, std::string_view text) {
  if (glob.empty()) return text.empty();
  if (glob[0] == '*') {
    for (std::size_t taken = 0; taken <= text.size(); ++taken)
      if (glob_match(glob.substr(1), text.substr(taken))) return true;
    return false;
  }
  const std::size_t close = glob[0] == '{' ? glob.find('}') : std::string_view::npos;
  if (close != std::string_view::npos) {
    const std::string_view inside = glob.substr(1, close - 1);
    const std::string rest(glob.substr(close + 1));
    for (std::size_t begin = 0; begin <= inside.size();) {
      const std::size_t end = std::min(inside.find(',', begin), inside.size());
      if (glob_match(std::string(inside.substr(begin, end - begin)) + rest, text)) return true;
      begin = end + 1;
    }
    return false;
  }
  return !text.empty() && glob[0] == text[0] && glob_match(glob.substr(1), text.substr(1));
}

}  // namespace norma::nn
