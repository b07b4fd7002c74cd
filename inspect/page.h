// One HTML page, readable offline, that shows one or more runs: curves, norms of every layer, the numbers as tables.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/dtype.h"
#include "inspect/recording.h"

namespace norma::inspect {

struct PageRun {
  std::string name;
  nlohmann::ordered_json config, summary;     // summary: null while the run goes on
  std::vector<nlohmann::ordered_json> rows;   // lines of metrics.jsonl
  std::string note;                           // what the reader should know, such as a line that was cut
  Recording recording;                        // of the flight recorder
  std::string ending;                         // interrupted, diverged or finished; empty while the run goes on
  Index tokens = 0;                           // N; 0: not known
  Index generation = 0;                       // of rows, in a live page: another number when they are not those of before, continued
  std::string setting = {};                   // the name of what it has in common with runs of other seeds: runs of one name are shown together
  std::string left_out = {};                  // why it is in no mean over them; empty: it is
  Index steps = 0;                            // behind its newest checkpoint, of status.json; 0: not known
  double seconds = 0;                         // that it trained, of status.json; 0: not known
  std::string data_hash = {}, test_hash = {};  // of its training and its test images, of status.json; empty: not known
};

/// The page as text. Names are data: they reach the reader as text, whatever they hold. `differences`: lines on how settings differ, below the
/// table of settings. With a `nonce` it is the live page, for a server that answers /data: only its own scripts and styles, which carry the nonce,
/// are to run. Without, it is one for a file.
std::string make_page(const std::string& title, std::span<const PageRun> runs, const std::vector<std::string>& differences,
                      const std::string& nonce = "");

/// What a page of these runs is called.
std::string page_title(std::span<const PageRun> runs);

/// A run as the page's script reads it, with the rows from `from` on.
nlohmann::ordered_json run_json(const PageRun& run, std::size_t from = 0);

/// Puts the common style sheet at /*STYLE*/, the common scripts at /*COMMON*/, and the data, made safe inside <script>, at /*DATA*/null.
std::string fill_page(std::string page, const nlohmann::ordered_json& data);

}  // namespace norma::inspect
