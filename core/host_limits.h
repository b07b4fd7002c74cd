// What the control group of this process (a container, a batch job) lets it use of the machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace norma {

struct HostLimits {
  std::optional<std::uint64_t> memory_left;  ///< bytes up to the limit; cached files that would make room count as free
  std::optional<double> cpus;                ///< seconds of processor time per second
};

/// The tightest limits of the group and of those it lies in, of either version of cgroups; nothing where there are none or they
/// cannot be read. `root` is the folder that holds proc and sys.
HostLimits host_limits(const std::filesystem::path& root = "/");

}  // namespace norma
