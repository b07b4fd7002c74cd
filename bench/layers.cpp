#include "bench/layers.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace norma::bench {
namespace {

constexpr std::int64_t most = 1 << 20;  // of each size: their products stay far from overflow

void skip(std::string_view& text, const char* letters) {
  text.remove_prefix(std::min(text.find_first_not_of(letters), text.size()));
}

/// The size that `text` begins with, which is removed from it with what stands before the next; 0 where there is none.
std::int64_t take_size(std::string_view& text) {
  std::int64_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  skip(text, ", \t");
  return error == std::errc() && size <= most ? std::max<std::int64_t>(size, 0) : 0;
}

Layer read_layer(std::string_view text) {
  std::string_view rest = text;
  skip(rest, " \t");
  const Layer l{take_size(rest), take_size(rest), take_size(rest)};
  if (l.rows * l.out * l.in == 0 || !rest.empty())
    fail("--shapes: \"{}\" is no layer: give rows,out,in, each from 1 to {}, as in \"4160,576,192; 65,768,192\"", text,
         most);
  return l;
}

}  // namespace

std::vector<Layer> read_layers(std::string_view text) {
  std::vector<Layer> layers;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(';'), text.size());
    layers.push_back(read_layer(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return layers;
}

}  // namespace norma::bench
