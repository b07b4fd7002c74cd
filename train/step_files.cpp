#include "train/step_files.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "core/folder.h"

namespace norma::train {
namespace {

constexpr std::string_view after = ".safetensors";
constexpr std::size_t digits = 9;

}  // namespace

std::string step_file(std::string_view before, Index step) {
  return fmt::format("{}{:0{}}{}", before, step, digits, after);
}

Index step_of_file(std::string_view before, const std::string& name) {
  if (name.size() < before.size() + digits + after.size() || !name.starts_with(before) || !name.ends_with(after))
    return -1;
  const char *begin = name.data() + before.size(), *end = name.data() + name.size() - after.size();
  Index step = -1;
  const auto [stop, error] = std::from_chars(begin, end, step);
  return error == std::errc{} && stop == end && step_file(before, step) == name ? step : -1;
}

std::vector<Index> steps_in(const std::filesystem::path& folder, std::string_view before) {
  std::vector<Index> steps;
  for (const auto& entry : entries_of(folder))
    if (const Index step = step_of_file(before, entry.path().filename().string()); step >= 0) steps.push_back(step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace norma::train
