// Texts that others wrote (a file, a server, a command line), made fit for a message: of the length of a message, and
// without what a terminal obeys.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace norma {

/// Where UTF-8 breaks in `text`, or npos.
std::size_t invalid_utf8(std::string_view text);

/// At most so many bytes (3 or more), cut between two characters; "..." at the end stands for what is left out.
std::string shortened(std::string_view text, std::size_t bytes);

/// Control characters, and bytes that are no UTF-8, as \xNN.
std::string printable(std::string_view text);

/// The same between quotes, and of a very long text the beginning: for names.
std::string in_quotes(std::string_view text);

}  // namespace norma
