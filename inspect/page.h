// One HTML page, readable offline, that shows one or more runs: curves, norms of every layer, the numbers as tables.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "inspect/recording.h"

namespace norma::inspect {

struct PageRun {
  std::string name;
  nlohmann::ordered_json config, summary;     // summary: null while the run goes on
  std::vector<nlohmann::ordered_json> rows;   // lines of metrics.jsonl
  std::string note;                           // what the reader should know, such as a line that was cut
  Recording recording;                        // of the flight recorder
};

/// The page as text. Names are data: they reach the reader as text, whatever they hold.
std::string make_page(const std::string& title, const std::vector<PageRun>& runs);

/// Puts the common style sheet at /*STYLE*/, the common scripts at /*ELEMENTS*/ and /*MATRIX*/, and the data, made safe inside <script>, at /*DATA*/null.
std::string fill_page(std::string page, const nlohmann::ordered_json& data);

}  // namespace norma::inspect
