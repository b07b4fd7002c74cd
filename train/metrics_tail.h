// Following a metrics.jsonl while a run writes it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "train/json.h"

namespace norma::train {

/// Remembers how far it has read, and reads only what came after.
class MetricsTail {
 public:
  explicit MetricsTail(std::filesystem::path file) : file_(std::move(file)) {}

  struct News {
    std::vector<Json> rows;  // the whole lines since the last call
    bool anew = false;       // the file does not go on from what was read before (the run was resumed or made again): rows are all it holds
    std::string cut;         // says that a line without an end was left out; it is read when it is whole
    std::string wrong;       // what is wrong with the line after `rows`; it stays the next to be read
  };
  /// No file: no rows.
  News read();

  /// Since the file last changed; 0 where there is none.
  double seconds_since_written() const;

 private:
  bool goes_on(std::istream& in, std::uintmax_t size) const;
  std::filesystem::path file_;
  std::uintmax_t offset_ = 0;  // of the first byte that is not read
  std::string last_line_;      // that ends there: it tells whether the file is still the same
  Index lines_ = 0;
};

}  // namespace norma::train
