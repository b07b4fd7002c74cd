// What this process may use of the machine: its control group (a container, a batch job), its own limits and the memory that is free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace norma {

struct HostLimits {
  std::optional<std::uint64_t> memory_left;  ///< bytes up to the limit; cached files that would make room count as free
  std::optional<double> cpus;                ///< seconds of processor time per second
  std::optional<std::uint64_t> address_space_left, data_left;  ///< bytes up to this process's own limits: ulimit -v, -d
};

/// The tightest limits of the group and of those it lies in, of either version of cgroups; nothing where there are none or they
/// cannot be read; beside them the process's own. `root` is the folder that holds proc and sys.
HostLimits host_limits(const std::filesystem::path& root = "/");

/// "128 TiB", "21.3 GiB", "17 B": one decimal below 100 unless it is 0.
std::string human_bytes(double bytes);

struct FreeMemory {
  std::uint64_t bytes;
  const char* limit;  ///< for a message: " under ulimit -v" where that leaves the least; empty: the machine's memory does
};
/// What new allocations can use without swapping, as the kernel estimates it, and no more than the limits leave; the largest number where
/// nothing says.
FreeMemory free_host_memory(const std::filesystem::path& root = "/");
std::uint64_t available_host_memory();  // its bytes

/// Reservations from here on are held against available_host_memory(): the system itself would promise what it does not
/// have.
constexpr std::size_t checked_reservation = std::size_t{1} << 30;

[[noreturn]] void fail_out_of_host_memory(std::size_t need);

}  // namespace norma
