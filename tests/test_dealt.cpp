// Tasks that are timed on one thread and dealt out to more: bench/dealt.h, cpu::watch_tasks.
#include <catch2/catch.hpp>

#include <thread>

#include "backends/cpu/parallel.h"
#include "bench/dealt.h"
#include "tests/cpu_settings.h"
#include "tests/errors.h"

using namespace norma;

TEST_CASE("tasks go in their order to the thread that is free first", "[dealt]") {
  const std::vector<double> tasks{3, 1, 1, 1, 2};
  CHECK(bench::dealt_out(tasks, 1) == 8);
  CHECK(bench::dealt_out(tasks, 2) == 5);  // 3 and 2 beside 1, 1, 1
  CHECK(bench::dealt_out(tasks, 3) == 3);
  CHECK(bench::dealt_out(tasks, 9) == 3);
  CHECK(bench::dealt_out({}, 4) == 0);
}

TEST_CASE("watched tasks run one after the other on their caller's thread, those within a task unseen", "[dealt]") {
  const test::RestoreSettings restore;
  cpu::set_threads(4);
  std::vector<std::size_t> seen;
  std::vector<int> order;
  cpu::watch_tasks([&](std::span<const double> seconds) { seen.push_back(seconds.size()); });
  const auto me = std::this_thread::get_id();
  cpu::parallel_tasks(5, [&](std::int64_t i) {
    CHECK(std::this_thread::get_id() == me);
    order.push_back(static_cast<int>(i));
    if (i == 1) cpu::parallel_tasks(3, [&](std::int64_t) {});
  });
  cpu::parallel_for(10, 4, [&](std::int64_t, std::int64_t) {});
  cpu::watch_tasks({});
  cpu::parallel_tasks(7, [](std::int64_t) {});
  CHECK(order == std::vector<int>{0, 1, 2, 3, 4});
  CHECK(seen == std::vector<std::size_t>{5, 3});
  CHECK(cpu::threads() == 4);
}

TEST_CASE("a step dealt out: the least time of each task, and what lies between the loops", "[dealt]") {
  using std::chrono::milliseconds;
  bench::Dealt dealt;
  for (const int slow : {0, 1, 2, -1, -1, -1}) {  // another task of each step is held up, far longer than a busy machine holds one up
    cpu::parallel_tasks(3, [&](std::int64_t i) { std::this_thread::sleep_for(milliseconds(i == slow ? 2000 : 4)); });
    std::this_thread::sleep_for(milliseconds(6));
    cpu::parallel_tasks(2, [&](std::int64_t) { std::this_thread::sleep_for(milliseconds(2)); });
    dealt.end_step();
  }
  const bench::Dealt::Times one = dealt.times(1, 1), three = dealt.times(3, 0.5);
  CHECK(one.loops == 2);
  CHECK(one.between >= 6e-3);
  CHECK(one.alone >= 22e-3);
  CHECK(one.alone < 2);     // no task's slow step
  CHECK(one.dealt == Approx(one.alone));
  CHECK(three.dealt >= 1 + 12e-3);  // two loops begin, one task of each, and what lies between
  CHECK(three.dealt < 1 + one.alone);

  cpu::parallel_tasks(3, [](std::int64_t) {});
  CHECK_THROWS_WITH(dealt.end_step(), Catch::Contains("a step of 1 loops came after one of 2"));
}
