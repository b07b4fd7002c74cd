// Edit distance after Damerau and Levenshtein (optimal string alignment), three rows of the table.
#include "core/suggest.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

namespace norma {

namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before.swap(last);
    last.swap(row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const char x = lower(a[i - 1]), y = lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (x == y ? 0u : 1u)});
      if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string suggest(std::string_view word, std::span<const std::string> candidates) {
  // A third of the letters may be wrong; longer words than any name of ours are not compared at all.
  if (word.size() > 200) return {};
  const std::size_t limit = std::max<std::size_t>(1, (word.size() + 1) / 3);
  std::size_t best = limit + 1;
  std::string found;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best && distance < std::max<std::size_t>(candidate.size(), 1)) {
      best = distance;
      found = candidate;
    }
  }
  return found;
}

std::string did_you_mean(std::string_view word, std::span<const std::string> candidates) {
  const std::string found = suggest(word, candidates);
  return found.empty() ? std::string() : fmt::format(" (did you mean \"{}\"?)", found);
}

}  // namespace norma
