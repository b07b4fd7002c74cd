#include "datasets/pnm.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/error.h"

namespace norma::datasets {
namespace {

constexpr Index largest_side = 16384;

/// The next number of the header: white space and comments before it are passed over. -1 when there is none.
Index header_number(std::istream& in) {
  for (int c = in.peek(); c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = in.peek()) {
    if (c == '#')
      while (in.good() && in.get() != '\n') continue;
    else
      in.get();
  }
  Index value = -1;
  while (in.peek() >= '0' && in.peek() <= '9' && value < largest_side * 10)
    value = std::max<Index>(value, 0) * 10 + (in.get() - '0');
  return value;
}

/// The mean of a row-major plane over the box [y0, y1) x [x0, x1), whose borders may lie inside pixels.
double box_mean(const std::uint8_t* plane, Index width, double y0, double y1, double x0, double x1) {
  double sum = 0;
  for (Index y = static_cast<Index>(y0); y < std::ceil(y1); ++y)
    for (Index x = static_cast<Index>(x0); x < std::ceil(x1); ++x) {
      const double h = std::min(y1, y + 1.0) - std::max(y0, static_cast<double>(y));
      const double w = std::min(x1, x + 1.0) - std::max(x0, static_cast<double>(x));
      sum += h * w * plane[y * width + x];
    }
  return sum / ((y1 - y0) * (x1 - x0));
}

}  // namespace

Picture read_pnm(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) fail("{}: is a folder; name a PGM or PPM file", file.string());
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("{}: cannot be read; is the path right?", file.string());
  char magic[2] = {};
  in.read(magic, 2);
  if (magic[0] != 'P' || (magic[1] != '5' && magic[1] != '6'))
    fail(
        "{}: is not a binary PGM or PPM picture (P5 or P6); convert it to one first, as in: convert {} -auto-orient "
        "-depth 8 {}",
        file.string(), file.string(), std::filesystem::path(file).replace_extension(".ppm").string());
  Picture p;
  p.channels = magic[1] == '6' ? 3 : 1;
  p.width = header_number(in);
  p.height = header_number(in);
  const Index most = header_number(in);
  if (p.width < 1 || p.height < 1 || p.width > largest_side || p.height > largest_side)
    fail("{}: its header gives {} x {} pixels; from 1 to {} a side are possible", file.string(), p.width, p.height,
         largest_side);
  if (most != 255) fail("{}: its samples go to {}; only 8 bits (255) are read", file.string(), most);
  in.get();  // the one white space before the samples
  const auto need = static_cast<std::size_t>(p.width * p.height * p.channels);
  const auto cut = [&](std::uintmax_t bytes) {
    if (bytes < need) fail("{}: is cut short: {} of {} bytes of samples", file.string(), bytes, need);
  };
  const std::streamoff begin = in.tellg();
  if (const auto size = std::filesystem::file_size(file, error);
      !error && begin >= 0)  // before memory is taken for what is not there
    cut(size - std::min(size, static_cast<std::uintmax_t>(begin)));
  std::vector<std::uint8_t> rows(need);
  in.read(reinterpret_cast<char*>(rows.data()), static_cast<std::streamsize>(need));
  cut(static_cast<std::uintmax_t>(in.gcount()));
  p.pixels.resize(rows.size());
  const Index plane = p.width * p.height;
  for (Index i = 0; i < plane; ++i)
    for (Index c = 0; c < p.channels; ++c)
      p.pixels[static_cast<std::size_t>(c * plane + i)] = rows[static_cast<std::size_t>(i * p.channels + c)];
  return p;
}

Picture squared(const Picture& from) {
  if (from.height == from.width) return from;
  const Index side = std::max(from.height, from.width), top = (side - from.height) / 2, left = (side - from.width) / 2;
  Picture out{side, side, from.channels, {}};
  out.pixels.reserve(static_cast<std::size_t>(side * side * from.channels));
  for (Index c = 0; c < from.channels; ++c) {
    const std::uint8_t* plane = from.pixels.data() + c * from.height * from.width;
    double sum = 0, count = 0;
    for (Index y = 0; y < from.height; ++y)
      for (Index x = 0; x < from.width; ++x)
        if (y == 0 || x == 0 || y == from.height - 1 || x == from.width - 1) sum += plane[y * from.width + x], ++count;
    const auto around = static_cast<std::uint8_t>(std::lround(sum / count));
    for (Index y = 0; y < side; ++y)
      for (Index x = 0; x < side; ++x) {
        const Index v = y - top, u = x - left;
        const bool inside = v >= 0 && v < from.height && u >= 0 && u < from.width;
        out.pixels.push_back(inside ? plane[v * from.width + u] : around);
      }
  }
  return out;
}

Picture fitted(const Picture& from, Index side, Index channels) {
  for (const Index c : {from.channels, channels})
    if (c != 1 && c != 3)
      fail("fitted: from {} channels to {}; there are 1 (grey) and 3 (colour)", from.channels, channels);
  if (from.height < 1 || from.width < 1 || side < 1)
    fail("fitted: from {}x{} to {}x{} pixels; a side has at least 1", from.height, from.width, side, side);
  if (const Shape shape{from.channels, from.height, from.width};
      from.pixels.size() != static_cast<std::size_t>(shape.numel()))
    fail("fitted: the picture holds {} bytes of pixels, but {} needs {}", from.pixels.size(), shape, shape.numel());
  Picture out{side, side, channels, std::vector<std::uint8_t>(static_cast<std::size_t>(side * side * channels))};
  const Index plane = from.width * from.height;
  const auto edge = [side](Index i, Index size) {  // of box i; the last is exactly `size`, whatever rounding says
    return i == side ? static_cast<double>(size)
                     : static_cast<double>(i) * static_cast<double>(size) / static_cast<double>(side);
  };
  for (Index y = 0; y < side; ++y)
    for (Index x = 0; x < side; ++x) {
      double value[3] = {};
      for (Index c = 0; c < from.channels; ++c)
        value[c] = box_mean(from.pixels.data() + c * plane, from.width, edge(y, from.height), edge(y + 1, from.height),
                            edge(x, from.width), edge(x + 1, from.width));
      if (from.channels == 1) value[1] = value[2] = value[0];
      if (from.channels == 3 && channels == 1)
        value[0] = 0.299 * value[0] + 0.587 * value[1] + 0.114 * value[2];  // ITU-R BT.601
      for (Index c = 0; c < channels; ++c)
        out.pixels[static_cast<std::size_t>((c * side + y) * side + x)] =
            static_cast<std::uint8_t>(std::lround(std::clamp(value[c], 0.0, 255.0)));
    }
  return out;
}

}  // namespace norma::datasets
