#include "inspect/heads_page.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "inspect/base64.h"
#include "inspect/page.h"

namespace norma::inspect {

extern const char page_heads[];  // inspect/page/heads.html, made into a string by CMake

using Json = nlohmann::ordered_json;

std::string make_heads_page(const HeadsPage& page) {
  static_assert(std::endian::native == std::endian::little, "the page reads little-endian floats");
  if (const Shape image{page.channels, page.side, page.side};
      page.pixels.size() != static_cast<std::size_t>(image.numel()))
    fail("heads page: the image holds {} bytes of pixels, but {} needs {}", page.pixels.size(), image, image.numel());
  Json layers = Json::array();
  for (const HeadsLayer& layer : page.layers) {
    const std::vector<double> wide = layer.weights.values();
    const std::vector<float> a(wide.begin(), wide.end());
    Json row = {{"place", layer.place}, {"heads", layer.weights.size(0)}, {"tokens", layer.weights.size(1)}};
    for (const auto& [name, field] : head_stats) row[name] = layer.stats.*field;
    row["weights"] = base64(a.data(), a.size() * sizeof(float));
    layers.push_back(std::move(row));
  }
  return fill_page(page_heads, {{"title", page.title},
                                {"summary", page.summary},
                                {"side", page.side},
                                {"channels", page.channels},
                                {"pixels", base64(page.pixels.data(), page.pixels.size())},
                                {"patch", page.patch},
                                {"class_token", page.class_token},
                                {"layers", layers}});
}

}  // namespace norma::inspect
