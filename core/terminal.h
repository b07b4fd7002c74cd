// What a terminal shows: how wide it is, and texts in lines that it holds.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace norma {

/// How many characters a line of the terminal behind a file descriptor holds; `otherwise` where it is none, or does not tell.
std::size_t terminal_columns(int descriptor, std::size_t otherwise);

/// How wide a UTF-8 text is printed: two columns for East Asian characters and emoji, none for a mark that joins the one before.
std::size_t columns(std::string_view text);

/// A text in lines of at most `width`, the second and later ones behind `indent` (less than `width`) blanks: broken at blanks; a word that is
/// longer than a line behind one of / - _ , or anywhere.
std::vector<std::string> wrapped(std::string_view text, std::size_t width, std::size_t indent = 0);

/// Prose in lines of at most `width`. A line that ends within a sentence goes on with the next one; one that has two blanks together, or begins with
/// one, stands for itself, and what it is too long by goes below its last column.
std::string filled(std::string_view text, std::size_t width);

}  // namespace norma
