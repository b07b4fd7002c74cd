#include "train/metrics_tail.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>

#include "train/saved_run.h"

namespace norma::train {
namespace fs = std::filesystem;

bool MetricsTail::goes_on(std::istream& in, std::uintmax_t size) const {
  if (size < offset_) return false;
  std::string there(last_line_.size(), '\0');
  in.seekg(static_cast<std::streamoff>(offset_ - there.size()));
  in.read(there.data(), static_cast<std::streamsize>(there.size()));
  return in && there == last_line_;
}

void MetricsTail::check_order(const Json& row, const std::string& where) {
  std::optional<Index>& before = row.contains("test_loss") || row.contains("test_accuracy") ? tested_ : step_;
  const Index step = row["step"];
  if (before && step <= *before)
    fail("{}: step {} stands behind step {}, which no run writes; {}", where, step, *before, remedy_);
  before = step;
}

MetricsTail::News MetricsTail::read() {
  News news;
  const auto forget = [&] {
    offset_ = 0, lines_ = 0, last_line_.clear(), step_.reset(), tested_.reset(), news.anew = true;
  };
  if (!is_there(file_)) {
    if (offset_ != 0) forget();
    return news;
  }
  std::ifstream in(file_, std::ios::binary | std::ios::ate);
  if (!in) fail("{}: cannot be read ({})", file_.string(), std::strerror(errno));
  const auto size = std::min(static_cast<std::uintmax_t>(in.tellg()), end_);
  if (offset_ != 0 && !goes_on(in, size)) forget();
  in.clear();
  in.seekg(static_cast<std::streamoff>(offset_));
  std::string text(size - offset_, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));

  for (std::size_t begin = 0; begin < text.size();) {
    const std::string where = fmt::format("{}:{}", file_.string(), lines_ + 1);
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) {
      news.cut = fmt::format("{}: the line is cut after {} bytes (the run is going on, or was stopped); left out",
                             where, text.size() - begin);
      break;
    }
    try {
      Json row = parse_row(std::string_view(text).substr(begin, end - begin), where, remedy_);
      check_order(row, where);
      news.rows.push_back(std::move(row));
    } catch (const Error& e) {
      news.wrong = e.what();
      break;
    }
    last_line_ = text.substr(begin, end + 1 - begin);
    offset_ += last_line_.size();
    ++lines_;
    begin = end + 1;
  }
  return news;
}

std::optional<double> MetricsTail::seconds_since_written() const {
  std::error_code error;
  const auto written = fs::last_write_time(file_, error);
  if (error) return std::nullopt;
  return std::chrono::duration<double>(fs::file_time_type::clock::now() - written).count();
}

}  // namespace norma::train
