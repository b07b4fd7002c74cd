// "Did you mean": the candidate nearest to a mistyped word.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace norma {

/// Number of insertions, deletions, replacements and swaps of neighbours that turn one word into the other; letter case
/// does not count.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest candidate (the first among equals) if it is near enough to be a slip of the pen, else "".
std::string suggest(std::string_view word, std::span<const std::string> candidates);

/// ` (did you mean "learning_rate"?)`, or "" when nothing is near: made to be appended to an error text.
std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

}  // namespace norma
