// The emulator holds kernels to the device's rules; index arithmetic that host and device share.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>

#include "autograd/ops.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels/rows.h"
#include "backends/cuda/launches.h"
#include "backends/cuda/runtime.h"

using namespace norma;
using namespace norma::cuda;

namespace {

Runtime& runtime_of_tests() {
  static const std::unique_ptr<Runtime> runtime = make_runtime(0);
  return *runtime;
}
Stream stream() { return runtime_of_tests().stream(); }

void sum_kernel(const float* x, float* out) {
  const RowTeam<true> team(1);
  const float all = team.reduce(x[thread_id()], Plus{});
  if (thread_id() == 0) *out = all;
}
void reversed_kernel(int* out, bool barrier) {
  int* space = reinterpret_cast<int*>(shared_memory());
  space[thread_id()] = static_cast<int>(thread_id());
  if (barrier) block_barrier();
  out[block_id().x * block_threads() + thread_id()] = space[block_threads() - 1 - thread_id()];
}
void half_barrier_kernel() {
  if (thread_id() < 16) block_barrier();
}
void half_exchange_kernel() {
  if (thread_id() % 32 < 7) exchange_xor(1, 1);
}
void mixed_exchange_kernel() {
  if (thread_id() % 2)
    exchange_xor(1, 1);
  else
    ballot(true);
}
[[maybe_unused]] void overrun_kernel() { shared_memory()[64 + thread_id() % 2] = 1; }
void forgotten_copy_kernel(const float* x) { copy_async(shared_memory() + 16 * thread_id(), x, true); }
void early_read_kernel(const float* x, float* out, bool wait) {
  float* space = reinterpret_cast<float*>(shared_memory()) + 4 * thread_id();
  copy_async(space, x, true);
  commit_copies();
  if (wait) wait_copies<0>();
  out[thread_id()] = space[3];
  if (!wait) wait_copies<0>();
}

void odd_pack_kernel(const float* x, float* out) {
  if (thread_id() == 0) store_pack(out, load_pack<4>(x));
}

template <class... Params, class... Args>
std::string error_of(unsigned threads, std::size_t shared, void (*kernel)(Params...), Args... args) {
  try {
    launch(stream(), {1}, threads, shared, kernel, args...);
    runtime_of_tests().synchronize();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a team of threads reduces through exchanges and shared memory", "[cuda_emulator]") {
  std::vector<float> x(row_threads);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  float out = 0;
  launch(stream(), {1}, row_threads, 4 * sizeof(double), sum_kernel, x.data(), &out);
  CHECK(out == 0);  // nobody has waited
  runtime_of_tests().synchronize();
  CHECK(out == 127 * 128 / 2);
}

TEST_CASE("a missing barrier shows, in one order of the threads or the other", "[cuda_emulator]") {
  std::vector<int> out(64);
  for (const bool barrier : {true, false}) {
    launch(stream(), {2}, 32, 32 * sizeof(int), reversed_kernel, out.data(), barrier);
    runtime_of_tests().synchronize();
    int wrong = 0;
    for (int i = 0; i < 64; ++i) wrong += out[static_cast<std::size_t>(i)] != 31 - i % 32;
    CHECK((wrong == 0) == barrier);
  }
}

TEST_CASE("broken rules are refused", "[cuda_emulator]") {
  CHECK(error_of(32, 0, half_barrier_kernel) ==
        "emulator: block (0, 0, 0) is stuck: 16 threads wait at a barrier, 0 at an exchange, 16 have left; all of a block must reach a "
        "barrier, all of a warp an exchange");
  CHECK(error_of(32, 0, half_exchange_kernel) ==
        "emulator: block (0, 0, 0) is stuck: 0 threads wait at a barrier, 7 at exchange_xor, 25 have left; all of a block must reach a "
        "barrier, all of a warp an exchange");
  CHECK(error_of(32, 0, mixed_exchange_kernel) ==
        "emulator: thread 1 of block (0, 0, 0) reaches exchange_xor where a lane of its warp reached ballot");
  CHECK(error_of(48, 0, half_barrier_kernel) == "emulator: a block of 48 threads; it must be a multiple of 32 up to 1024");
  alignas(16) const float x[4] = {1, 2, 3, 4};
  CHECK(error_of(32, 512, forgotten_copy_kernel, &x[0]) ==
        "emulator: thread 0 of block (0, 0, 0) leaves with copies it did not wait for");
#if !defined(__SANITIZE_ADDRESS__)  // which sees it first
  CHECK(error_of(32, 64, overrun_kernel) == "emulator: block (0, 0, 0) wrote past its 64 bytes of shared memory");
#endif
  alignas(16) float out[32];
  CHECK(error_of(32, 0, odd_pack_kernel, &x[0], &out[4]) == "no error");
  CHECK_THAT(error_of(32, 0, odd_pack_kernel, &x[0], &out[1]), Catch::StartsWith("emulator: thread 0 moves 16 bytes by one access at "));
  CHECK(error_of(32, 512, early_read_kernel, &x[0], &out[0], true) == "no error");
  CHECK(out[5] == 4);
  CHECK(error_of(32, 512, early_read_kernel, &x[0], &out[0], false) == "no error");
  CHECK(std::isnan(out[5]));  // not there yet
}

TEST_CASE("work and copies beside it happen when they are waited for, not before, and read the host's memory then", "[cuda_emulator]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  using Lane = Runtime::Lane;
  const auto first = runtime->make_event(), second = runtime->make_event(), read = runtime->make_event();
  int host[2] = {1, 2}, device[2] = {0, 0}, back = 0;
  runtime->wait(*first);  // not recorded: nothing stands before it
  runtime->send_to_device(&device[0], &host[0], sizeof(int));
  runtime->record(*first, Lane::copies);
  runtime->send_to_device(&device[1], &host[1], sizeof(int));
  runtime->record(*second, Lane::copies);
  runtime->synchronize();  // of the work alone
  CHECK(device[0] == 0);
  host[0] = 3;  // too early: the copy has not been waited for
  runtime->order(Lane::work, *first);
  runtime->copy_to_host(&back, &device[0], sizeof(int));
  CHECK(back == 0);
  runtime->synchronize();
  CHECK(back == 3);
  CHECK(device[1] == 0);
  runtime->wait(*second);
  CHECK(device[1] == 2);
  // A copy that waits for work makes it happen.
  runtime->copy_to_host(&back, &device[1], sizeof(int));
  runtime->record(*read, Lane::work);
  runtime->order(Lane::copies, *read);
  runtime->send_to_device(&device[1], &host[0], sizeof(int));
  runtime->record(*second, Lane::copies);
  runtime->wait(*second);
  CHECK(back == 2);
  CHECK(device[1] == 3);
}

TEST_CASE("the host cannot touch device memory, and what the pool hands out holds NaN, in each replay of a graph too", "[cuda_emulator]") {
  const Place place{DType::f32, {Device::Kind::cuda, 0}};
  Backend& cuda = backend(place.device);
  const Tensor x = full({1000}, 1, place), total = zeros({}, place);
  cuda.synchronize();
  if (!runtime_of_tests().exact_blocks()) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    CHECK(write(ends[1], x.view().data, 1) == -1);  // the system looks where a program would end
    CHECK(errno == EFAULT);
    close(ends[0]), close(ends[1]);
  }
  for (int i = 0; i < 2; ++i) CHECK(std::isnan(empty({1000}, place).values()[7]));  // the second time a block that was in use
  const auto graph = cuda.capture([&] {
    const NoGrad off;
    const Tensor room = empty({1000}, place);
    copy_into(total, sum(room));  // of the replay before, had it not been handed out again
    copy_into(room, x);
  });
  for (int i = 0; i < 2; ++i) {
    graph->replay();
    CHECK(std::isnan(total.item()));
  }
}

TEST_CASE("while a stream is captured nothing waits for it", "[cuda_emulator]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  using Lane = Runtime::Lane;
  const auto event = runtime->make_event();
  int host = 1, device = 0;
  runtime->begin_capture();
  CHECK_THROWS_WITH(runtime->synchronize(), "emulator: the host waits while the stream is captured");
  CHECK_THROWS_WITH(runtime->copy_to_device(&device, &host, sizeof host), "emulator: a copy to the device while the stream is captured");
  CHECK_THROWS_WITH(runtime->record(*event, Lane::work), "emulator: an event is recorded while the stream is captured");
  CHECK_THROWS_WITH(runtime->order(Lane::work, *event), "emulator: an event is waited for while the stream is captured");
  runtime->send_to_device(&device, &host, sizeof host);  // beside it copies go on
  runtime->record(*event, Lane::copies);
  runtime->wait(*event);
  CHECK(device == 1);
  CHECK(runtime->end_capture());
}

TEST_CASE("what stands beside a product is added within it, or the product is declined whole", "[cuda_emulator]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  alignas(16) float a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[16] = {}, c[8] = {}, bias[4] = {10, 20, 30, 40}, addend[8] = {1, 1, 1, 1, 2, 2, 2, 2}, sums[4] = {};
  for (int i = 0; i < 4; ++i) b[5 * i] = 1;  // the unit matrix
  Gemm g;
  g.m = 2, g.n = 4, g.k = 4, g.a = {a, 4}, g.b = {b, 4}, g.c = c, g.c_pitch = 4;
  g.bias = bias, g.addend = addend, g.addend_pitch = 4;
  CHECK(blas->multiply_with(g));
  runtime->synchronize();
  CHECK(std::vector<float>(c, c + 8) == std::vector<float>{12, 23, 34, 45, 17, 28, 39, 50});
  g.bias = g.addend = nullptr, g.row_sums = sums;
  CHECK(blas->multiply_with(g));
  runtime->synchronize();
  CHECK(std::vector<float>(c, c + 8) == std::vector<float>(a, a + 8));
  CHECK(std::vector<float>(sums, sums + 4) == std::vector<float>{10, 26, 0, 0});
  c[0] = -1;
  g.row_sums = sums + 1;  // no address for it
  CHECK_FALSE(blas->multiply_with(g));
  g.row_sums = sums, g.batch = 2;
  CHECK_FALSE(blas->multiply_with(g));
  g.batch = 1, g.dtype = g.out_dtype = DType::f64;
  CHECK_FALSE(blas->multiply_with(g));
  runtime->synchronize();
  CHECK(c[0] == -1);
}

TEST_CASE("a capture that fails leaves the backend usable, and its blocks to everyone", "[cuda_emulator]") {
  using Capture = emulator::Card::Capture;
  const Place place{DType::f32, {Device::Kind::cuda, 0}};
  Backend& cuda = backend(place.device);
  constexpr Index large = Index{3} << 20;  // a block of its own
  for (const auto& [fault, text] : {std::pair{Capture::fails_to_begin, "emulator: the capture does not begin"},
                                    {Capture::fails_to_end, "emulator: the capture does not end in a graph"}}) {
    bool ran = false;
    emulator::card().capture = fault;
    CHECK_THROWS_WITH(cuda.capture([&] { (void)empty({large}, place), ran = true; }), text);
    emulator::card() = {};
    CHECK(ran == (fault == Capture::fails_to_end));
    const std::size_t held = cuda.memory().reserved;
    if (ran && !runtime_of_tests().exact_blocks()) {
      (void)empty({large}, place);
      CHECK(cuda.memory().reserved == held);
    }
    const Tensor total = zeros({}, place), one = ones({}, place);
    const auto graph = cuda.capture([&] { copy_into(total, one); });
    CHECK(total.item() == 0);
    graph->replay();
    CHECK(total.item() == 1);
  }
}

TEST_CASE("columns are cut into few blocks without an empty warp", "[cuda_emulator]") {
  for (std::int64_t columns = 1; columns <= 3000; ++columns) {
    const ColumnBlocks cut = column_blocks(columns, 128);
    INFO(columns << " columns");
    CHECK(cut.blocks == (columns + 127) / 128);
    CHECK(cut.threads % 32 == 0);
    CHECK(cut.threads <= 128);
    CHECK(cut.blocks * cut.threads >= columns);
    CHECK(cut.blocks * (cut.threads - 32) < columns);
  }
  CHECK(column_blocks(192, 128).threads == 96);
  CHECK(column_blocks(384, 128).blocks == 3);
  CHECK(column_blocks(0, 128).blocks == 0);
}

TEST_CASE("Divider divides", "[cuda_emulator]") {
  for (std::uint32_t d : {1u, 2u, 3u, 5u, 7u, 12u, 31u, 641u, 65535u, 65536u, 65537u, 1000003u, 0x3fffffffu, 0x40000000u, 0x7fffffffu}) {
    const Divider divider(d);
    for (std::uint64_t base : {std::uint64_t{0}, std::uint64_t{d}, std::uint64_t{d} * 2, std::uint64_t{d} * 77, std::uint64_t{0x7fffffff}}) {
      for (int off = -2; off <= 2; ++off) {
        const std::int64_t n = static_cast<std::int64_t>(base) + off;
        if (n < 0 || n > 0x7fffffff) continue;
        CHECK(divider.divide(static_cast<std::uint32_t>(n)) == static_cast<std::uint32_t>(n) / d);
      }
    }
  }
}

TEST_CASE("work that is too large for one launch is cut into pieces that cover it once", "[cuda_emulator]") {
  std::vector<float> x(1000), y(1000);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  for (const Index limit : {1000, 100, 7, 1}) {
    std::fill(y.begin(), y.end(), 0.0f);
    Layout from(Shape{10, 25, 4}), to(Shape{10, 25, 4});
    from = permute(from, std::array{2, 0, 1}), to = permute(to, std::array{2, 0, 1});
    const Operands<2> operands{{from, to}, {reinterpret_cast<char*>(x.data()), reinterpret_cast<char*>(y.data())}, {4, 4}};
    Index covered = 0;
    each_piece<2>(operands, limit, [&](const Elements<2>& e) {
      CHECK(e.loop.size <= limit);
      covered += e.loop.size;
      for (std::uint32_t i = 0; i < e.loop.size; ++i) {
        std::int64_t at[2];
        e.loop.offsets(i, at);
        static_cast<float*>(e.data[1])[at[1]] += static_cast<const float*>(e.data[0])[at[0]];
      }
    });
    CHECK(covered == 1000);
    CHECK(y == x);
  }
}
