// Following a metrics.jsonl while a run writes it.
#pragma once

#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "train/json.h"

namespace norma::train {

/// Remembers how far it has read, and reads only what came after.
class MetricsTail {
 public:
  static constexpr const char* any_remedy = "take the line out, or go on with norma train --resume, which cuts the file back to its checkpoint";
  /// Reads no further than to byte `end`. `remedy` says what to do about a line that is no JSON or out of order.
  explicit MetricsTail(std::filesystem::path file, std::uintmax_t end = std::numeric_limits<std::uintmax_t>::max(), std::string remedy = any_remedy)
      : file_(std::move(file)), end_(end), remedy_(std::move(remedy)) {}

  struct News {
    std::vector<Json> rows;  // the whole lines since the last call
    bool anew = false;       // the file does not go on from what was read before (the run was resumed or made again): rows are all it holds
    std::string cut;         // says that a line without an end was left out; it is read when it is whole
    std::string wrong;       // what is wrong with the line after `rows`; it stays the next to be read
  };
  /// No file: no rows.
  News read();

  /// Since the file last changed; nothing where there is none.
  std::optional<double> seconds_since_written() const;

 private:
  bool goes_on(std::istream& in, std::uintmax_t size) const;
  /// Throws where the row stands behind one of a later step: steps grow among the lines of steps, and among those of evaluations.
  void check_order(const Json& row, const std::string& where);
  std::filesystem::path file_;
  std::uintmax_t end_;
  std::string remedy_;
  std::uintmax_t offset_ = 0;  // of the first byte that is not read
  std::string last_line_;      // that ends there: it tells whether the file is still the same
  Index lines_ = 0;
  std::optional<Index> step_, tested_;  // of the last line of a step, and of an evaluation
};

}  // namespace norma::train
