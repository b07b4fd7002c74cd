// What the host's memory can still give, and sizes in words.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/host_limits.h"

namespace norma {

/// "128 TiB", "21.3 GiB", "17 B": one decimal below 100 unless it is 0.
inline std::string human_bytes(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 6; ++unit) bytes /= 1024;
  const double tenths = std::round(bytes * 10) / 10;
  return tenths < 100 && tenths != std::floor(tenths) ? fmt::format("{:.1f} {}", tenths, units[unit])
                                                      : fmt::format("{:.0f} {}", bytes, units[unit]);
}

/// Bytes that new allocations can use without swapping, as the kernel estimates it, and no more than a container leaves; the
/// largest number where neither says.
inline std::uint64_t available_host_memory() {
  const std::uint64_t most = host_limits().memory_left.value_or(std::numeric_limits<std::uint64_t>::max());
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    std::uint64_t kib;
    if (word == "MemAvailable:" && file >> kib) return std::min(most, kib * 1024);
  }
  return most;
}

/// Reservations from here on are held against available_host_memory(): the system itself would promise what it does not
/// have.
constexpr std::size_t checked_reservation = std::size_t{1} << 30;

[[noreturn]] inline void fail_out_of_host_memory(std::size_t need) {
  fail("out of memory: need {}, {} free (host); a smaller batch, image or model needs less", human_bytes(static_cast<double>(need)),
       human_bytes(static_cast<double>(available_host_memory())));
}

}  // namespace norma
