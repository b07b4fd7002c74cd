// What a container allows, read from the files of both versions of cgroups.
#include <catch2/catch.hpp>
#include <fstream>

#include "core/error.h"
#include "core/host_limits.h"
#include "tests/folders.h"

using namespace norma;
namespace fs = std::filesystem;

namespace {
void write(const fs::path& file, const char* text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}
}  // namespace

TEST_CASE("a machine without control groups has no limits", "[host_limits]") {
  const HostLimits none = host_limits(test::fresh_folder("none"));
  CHECK_FALSE(none.memory_left);
  CHECK_FALSE(none.cpus);
}

TEST_CASE("free memory is what the machine has, and no more than the tightest limit leaves, which is named", "[host_limits]") {
  const fs::path root = test::fresh_folder("free"), process = root / "proc/self";
  CHECK(free_host_memory(root).bytes == ~std::uint64_t{0});
  write(root / "proc/meminfo", "MemTotal:       24000000 kB\nMemAvailable:       9000 kB\n");
  write(process / "status", "Name:\ta name of 7 words\nVmPeak:\t    9000 kB\nVmSize:\t    3000 kB\nVmData:\t    1000 kB\n");
  const auto limits = [&](const char* data, const char* space) {
    write(process / "limits", fmt::format("Limit                     Soft Limit           Hard Limit           Units     \n"
                                          "Max data size             {:<20} unlimited            bytes     \n"
                                          "Max address space         {:<20} unlimited            bytes     \n", data, space).c_str());
    const FreeMemory free = free_host_memory(root);
    return std::pair(free.bytes, std::string(free.limit));
  };
  using Free = std::pair<std::uint64_t, std::string>;
  CHECK(limits("unlimited", "unlimited") == Free{9000 * 1024, ""});
  CHECK(limits("unlimited", "4096000") == Free{1000 * 1024, " under ulimit -v"});
  CHECK(limits("1536000", "4096000") == Free{500 * 1024, " under ulimit -d"});
  CHECK(limits("1024", "4096000") == Free{0, " under ulimit -d"});
  CHECK(limits("unlimited", "900000000") == Free{9000 * 1024, ""});
  write(root / "proc/self/cgroup", "0::/\n");
  write(root / "sys/fs/cgroup/memory.max", "3000\n");
  write(root / "sys/fs/cgroup/memory.current", "1000\n");
  CHECK(limits("unlimited", "4096000") == Free{2000, " under the memory limit of the control group"});
}

TEST_CASE("cgroup v2: the tightest of a group and those above it", "[host_limits]") {
  const fs::path root = test::fresh_folder("v2"), groups = root / "sys/fs/cgroup";
  write(root / "proc/self/cgroup", "0::/batch/job 7\n");
  write(groups / "batch/job 7/memory.max", "4000000\n");
  write(groups / "batch/job 7/memory.current", "1500000\n");
  write(groups / "batch/job 7/memory.stat", "anon 900000\ninactive_file 500000\nactive_file 100000\n");
  write(groups / "batch/job 7/cpu.max", "250000 100000\n");
  CHECK(host_limits(root).memory_left == 3000000);
  CHECK(host_limits(root).cpus == 2.5);

  write(groups / "batch/memory.max", "max\n");  // above: no limit of memory, a tighter one of time
  write(groups / "batch/memory.current", "9000000\n");
  write(groups / "batch/cpu.max", "150000 100000\n");
  CHECK(host_limits(root).memory_left == 3000000);
  CHECK(host_limits(root).cpus == 1.5);

  write(groups / "batch/memory.max", "9200000\n");
  CHECK(host_limits(root).memory_left == 200000);

  write(groups / "batch/cpu.max", "max 100000\n");
  CHECK(host_limits(root).cpus == 2.5);

  write(groups / "batch/memory.max", "8000000\n");  // more in use than allowed: nothing is left
  CHECK(host_limits(root).memory_left == 0);
}

TEST_CASE("cgroup v2: a container sees its own group as the root", "[host_limits]") {
  const fs::path root = test::fresh_folder("own"), groups = root / "sys/fs/cgroup";
  write(root / "proc/self/cgroup", "0::/docker/0123456789\n");
  write(groups / "memory.max", "2000\n");
  write(groups / "memory.current", "500\n");
  write(groups / "cpu.max", "50000 100000\n");
  CHECK(host_limits(root).memory_left == 1500);
  CHECK(host_limits(root).cpus == 0.5);
}

TEST_CASE("cgroup v1: limits lie with their controllers", "[host_limits]") {
  const fs::path root = test::fresh_folder("v1"), groups = root / "sys/fs/cgroup";
  write(root / "proc/self/cgroup", "5:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/box\nnonsense\n");
  write(groups / "memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  write(groups / "memory/memory.usage_in_bytes", "1\n");
  write(groups / "cpu/box/cpu.cfs_quota_us", "-1\n");
  write(groups / "cpu/box/cpu.cfs_period_us", "100000\n");
  CHECK_FALSE(host_limits(root).memory_left);
  CHECK_FALSE(host_limits(root).cpus);

  write(groups / "memory/box/memory.limit_in_bytes", "1000\n");
  write(groups / "memory/box/memory.usage_in_bytes", "700\n");
  write(groups / "memory/box/memory.stat", "inactive_file 400\ntotal_inactive_file 100\n");
  write(groups / "cpu/box/cpu.cfs_quota_us", "300000\n");
  CHECK(host_limits(root).memory_left == 400);
  CHECK(host_limits(root).cpus == 3);
}
