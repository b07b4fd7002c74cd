#include "inspect/recording.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "core/shape.h"
#include "inspect/base64.h"

namespace norma::inspect {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int16_t not_finite = -32768;

struct Measured {
  double fro = 0, min = std::numeric_limits<double>::infinity(), max = -min,
         largest = 0;  // all but fro: of its finite numbers
};

Measured measure(std::span<const float> a) {
  Measured m;
  double sum = 0;
  for (const double v : a) {
    sum += v * v;
    if (!std::isfinite(v)) continue;
    m.min = std::min(m.min, v);
    m.max = std::max(m.max, v);
    m.largest = std::max(m.largest, std::abs(v));
  }
  m.fro = std::sqrt(sum);
  return m;
}

/// The root of v / largest, with its sign, in steps of 1/32767: small numbers, which a colour shows too, keep their
/// digits, and rows that are nearly even their differences.
std::int16_t in_16_bits(double v, double largest) {
  if (!std::isfinite(v)) return not_finite;
  if (largest == 0) return 0;
  return static_cast<std::int16_t>(std::copysign(std::round(32767 * std::sqrt(std::abs(v) / largest)), v));
}

Json layer_data(const RecordedLayer& layer, Index images, Index tokens) {
  const auto size = static_cast<std::size_t>(tokens * tokens);
  std::vector<std::int16_t> bits;
  bits.reserve(layer.a.size());
  Json out = {{"heads", layer.heads},
              {"fro", Json::array()},
              {"min", Json::array()},
              {"max", Json::array()},
              {"largest", Json::array()}};
  for (Index i = 0; i < images * layer.heads; ++i) {
    const auto a = std::span(layer.a).subspan(static_cast<std::size_t>(i) * size, size);
    const Measured m = measure(a);
    for (const double v : a) bits.push_back(in_16_bits(v, m.largest));
    out["fro"].push_back(m.fro);
    out["min"].push_back(m.min);
    out["max"].push_back(m.max);
    out["largest"].push_back(m.largest);
  }
  out["a"] = base64(bits.data(), bits.size() * sizeof(std::int16_t));
  return out;
}

void check(const Recording& r) {
  const ProbeImages& p = r.images;
  if (r.records.empty()) return;
  if (p.patch < 1 || p.side < p.patch)
    fail("page_data: images have a patch of {} pixels, must be 1 to their side {}", p.patch, p.side);
  for (const Record& record : r.records)
    for (const RecordedLayer& layer : record.layers) {
      const Shape shape{p.count, layer.heads, p.tokens(), p.tokens()};
      if (layer.a.size() != static_cast<std::size_t>(shape.numel()))
        fail("page_data: {} at step {} holds {} numbers, but matrices {} need {}", layer.place, record.step,
             layer.a.size(), shape, shape.numel());
    }
}

}  // namespace

Json page_data(const Recording& r) {
  static_assert(std::endian::native == std::endian::little, "the page reads little-endian numbers");
  check(r);
  const ProbeImages& p = r.images;
  Json records = Json::array();
  for (const Record& record : r.records) {
    Json layers = Json::object();
    for (const RecordedLayer& layer : record.layers) layers[layer.place] = layer_data(layer, p.count, p.tokens());
    records.push_back({{"step", record.step}, {"layers", layers}});
  }
  return {{"count", p.count},
          {"channels", p.channels},
          {"side", p.side},
          {"patch", p.patch},
          {"class_token", p.class_token},
          {"labels", p.labels},
          {"pixels", base64(p.pixels.data(), p.pixels.size())},
          {"records", records},
          {"notes", r.notes}};
}

}  // namespace norma::inspect
