#include "nn/glob.h"

#include <cstddef>
#include <vector>

namespace norma::nn {
namespace {

using Places = std::vector<std::size_t>;

/// Where a match goes on from each place of a glob without reading a letter: nowhere from a letter, and always further
/// right.
std::vector<Places> jumps(std::string_view glob) {
  struct Group {
    std::size_t open;
    Places commas;
  };
  std::vector<Places> next(glob.size());
  std::vector<Group> groups;  // whose } is still to come; one without a } is a letter, as its commas are
  for (std::size_t i = 0; i < glob.size(); ++i) {
    if (glob[i] == '*') next[i] = {i + 1};
    if (glob[i] == '{') groups.push_back({i, {}});
    if (groups.empty()) continue;
    if (glob[i] == ',') groups.back().commas.push_back(i);
    if (glob[i] != '}') continue;
    const Group group = groups.back();
    groups.pop_back();
    next[group.open] = {group.open + 1};
    next[i] = {i + 1};
    for (const std::size_t comma : group.commas) {
      next[group.open].push_back(comma + 1);
      next[comma] = {i + 1};
    }
  }
  return next;
}

}  // namespace

bool glob_match(std::string_view glob, std::string_view text) {
  const std::vector<Places> next = jumps(glob);
  const std::size_t end = glob.size();
  std::vector<bool> here(end + 1), after(end + 1);  // the places where what was read so far may have led
  here[0] = true;
  const auto jump = [&] {
    for (std::size_t i = 0; i < end; ++i)
      if (here[i])
        for (const std::size_t to : next[i]) here[to] = true;
  };
  jump();
  for (const char letter : text) {
    after.assign(end + 1, false);
    for (std::size_t i = 0; i < end; ++i) {
      if (!here[i]) continue;
      if (glob[i] == '*') after[i] = true;
      if (next[i].empty() && glob[i] == letter) after[i + 1] = true;
    }
    here.swap(after);
    jump();
  }
  return here[end];
}

}  // namespace norma::nn
