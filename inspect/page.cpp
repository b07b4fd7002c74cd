#include "inspect/page.h"

namespace norma::inspect {

extern const char page_template[];  // inspect/page.html, made into a string by CMake

std::string make_page(const std::string& title, const std::vector<PageRun>& runs) {
  nlohmann::ordered_json data = {{"title", title}, {"runs", nlohmann::ordered_json::array()}};
  for (const PageRun& r : runs)
    data["runs"].push_back({{"name", r.name}, {"config", r.config}, {"summary", r.summary}, {"rows", r.rows}});
  // Inside <script> only "<" could end the data; JSON may spell it as an escape. Invalid UTF-8 is replaced.
  std::string text = data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), safe;
  for (char c : text) c == '<' ? safe += "\\u003c" : safe += c;
  std::string page = page_template;
  const std::string mark = "/*DATA*/null";
  return page.replace(page.find(mark), mark.size(), safe);
}

}  // namespace norma::inspect
