#include "core/host_limits.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/error.h"

namespace norma {
namespace {

namespace fs = std::filesystem;

/// The first number in a file; nothing where there is none ("max").
std::optional<double> number(const fs::path& file) {
  std::ifstream in(file);
  double value;
  return in >> value ? std::optional(value) : std::nullopt;
}

/// The number behind a key in a file of lines "key number", 0 where there is none.
double keyed(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    double value;
    if (std::string word; words >> word >> value && word == key) return value;
  }
  return 0;
}

template <class T>
void at_most(std::optional<T>& limit, T value) {
  limit = std::min(limit.value_or(value), value);
}

/// What a limit of this process leaves: the words of /proc/self/limits before its value, and the key of what it counts in /proc/self/status.
std::optional<std::uint64_t> left_of(const fs::path& process, const std::string& limit, const std::string& used) {
  std::ifstream in(process / "limits");
  for (std::string line; std::getline(in, line);) {
    double most;
    if (!line.starts_with(limit) || !(std::istringstream(line.substr(limit.size())) >> most)) continue;  // "unlimited"
    return static_cast<std::uint64_t>(std::max(0.0, most - 1024 * keyed(process / "status", used)));
  }
  return std::nullopt;
}

/// What is left in `group`, if it has a limit: files of version 2, or of 1, under their names there.
void memory_of(const fs::path& group, const char* limit, const char* used, const char* cached, HostLimits& all) {
  const auto most = number(group / limit), now = number(group / used);
  if (!most || !now || *most >= 0x1p60) return;  // version 1 has a huge number where there is no limit
  const double in_use = std::max(0.0, *now - keyed(group / "memory.stat", cached));
  at_most(all.memory_left, static_cast<std::uint64_t>(std::max(0.0, *most - in_use)));
}

void cpus_of(std::optional<double> quota, std::optional<double> period, HostLimits& all) {
  if (quota && period && *quota > 0 && *period > 0) at_most(all.cpus, *quota / *period);
}

/// f(folder) of the group at `path` below `base` and of all above it. A container may see its own group as the base.
template <class F>
void upwards(const fs::path& base, fs::path path, F f) {
  for (;; path = path.parent_path()) {
    f(base / path);
    if (path.empty()) return;
  }
}

}  // namespace

HostLimits host_limits(const fs::path& root) {
  HostLimits all;
  const fs::path groups = root / "sys/fs/cgroup";
  std::ifstream mine(root / "proc/self/cgroup");  // lines of "4:memory:/path"; of version 2 "0::/path"
  for (std::string line; std::getline(mine, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path path = fs::path(line.substr(second + 1)).relative_path();
    if (controllers == ",,")
      upwards(groups, path, [&](const fs::path& group) {
        memory_of(group, "memory.max", "memory.current", "inactive_file", all);
        std::ifstream cpu(group / "cpu.max");  // "quota period"
        double quota, period;
        if (cpu >> quota >> period) cpus_of(quota, period, all);
      });
    if (controllers.find(",memory,") != std::string::npos)
      upwards(groups / "memory", path, [&](const fs::path& group) {
        memory_of(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", all);
      });
    if (controllers.find(",cpu,") != std::string::npos)
      upwards(groups / "cpu", path, [&](const fs::path& group) {
        cpus_of(number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us"), all);
      });
  }
  all.address_space_left = left_of(root / "proc/self", "Max address space", "VmSize:");
  all.data_left = left_of(root / "proc/self", "Max data size", "VmData:");
  return all;
}

std::string human_bytes(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 6; ++unit) bytes /= 1024;
  const double tenths = std::round(bytes * 10) / 10;
  return tenths < 100 && tenths != std::floor(tenths) ? fmt::format("{:.1f} {}", tenths, units[unit])
                                                      : fmt::format("{:.0f} {}", bytes, units[unit]);
}

FreeMemory free_host_memory(const fs::path& root) {
  FreeMemory least{std::numeric_limits<std::uint64_t>::max(), ""};
  const auto at_most = [&](std::optional<std::uint64_t> bytes, const char* limit) {
    if (bytes && *bytes < least.bytes) least = {*bytes, limit};
  };
  if (const double kib = keyed(root / "proc/meminfo", "MemAvailable:"); kib > 0)
    at_most(static_cast<std::uint64_t>(kib * 1024), "");
  const HostLimits limits = host_limits(root);
  at_most(limits.memory_left, " under the memory limit of the control group");
  at_most(limits.address_space_left, " under ulimit -v");
  at_most(limits.data_left, " under ulimit -d");
  return least;
}

std::uint64_t available_host_memory() { return free_host_memory().bytes; }

void fail_out_of_host_memory(std::size_t need) {
  const FreeMemory free = free_host_memory();
  fail("out of memory: need {}, {} free{} (host); a smaller batch, image or model needs less", human_bytes(static_cast<double>(need)),
       human_bytes(static_cast<double>(free.bytes)), free.limit);
}

}  // namespace norma
