// What training goes on without where it cannot be written: a view of the run, which can be made again or be spared.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <utility>

#include "core/error.h"

namespace norma::train {

class Dispensable {
 public:
  using Tell = std::function<void(const std::string&)>;
  /// `meanwhile` ends what `tell` gets when writing fails for the first time; later failures are not told.
  Dispensable(Tell tell, std::string meanwhile) : tell_(std::move(tell)), meanwhile_(std::move(meanwhile)) {}

  template <class F>
  void operator()(F write) {
    try {
      write();
    } catch (const std::exception& e) {
      if (!std::exchange(failed_, true)) tell_(fmt::format("{}; {}", e.what(), meanwhile_));
    }
  }
  bool failed() const { return failed_; }

 private:
  Tell tell_;
  std::string meanwhile_;
  bool failed_ = false;
};

}  // namespace norma::train
