// blas_cuda.cpp and blaslt_cuda.cpp beside plain loops: what they ask of cuBLAS and cuBLASLt is what Gemm means. Their libraries are those of
// plain_cublas/, which hold them to the headers.
#include <catch2/catch.hpp>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <latch>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/cuda/runtime.h"
#include "core/random.h"

using namespace norma;
using namespace norma::cuda;

namespace {

constexpr std::size_t line = 8;  // elements: pitches that both libraries take

/// Numbers of a dtype at a multiple of 256 bytes, and what they are.
struct Numbers {
  DType dtype;
  std::vector<std::byte> room;
  void* data;

  Numbers(DType d, std::size_t count, std::uint64_t stream) : dtype(d), room(count * size_of(d) + 256) {
    const auto start = reinterpret_cast<std::uintptr_t>(room.data());
    data = room.data() + (256 - start % 256) % 256;
    for (std::size_t i = 0; i < count; ++i) set(i, 2.0 * uniform_from(RandomStream{3, stream}.word(i)) - 1);
  }
  void set(std::size_t i, double x) {
    if (dtype == DType::f64) static_cast<double*>(data)[i] = x;
    if (dtype == DType::f32) static_cast<float*>(data)[i] = static_cast<float>(x);
    if (dtype == DType::bf16) static_cast<bf16*>(data)[i] = bf16(static_cast<float>(x));
  }
  double at(std::size_t i) const {
    if (dtype == DType::f64) return static_cast<const double*>(data)[i];
    if (dtype == DType::f32) return static_cast<const float*>(data)[i];
    return static_cast<float>(static_cast<const bf16*>(data)[i]);
  }
};

std::size_t rounded(std::size_t n) { return (n + line - 1) / line * line; }

struct Types {
  DType in, out;
};

/// One product of both operands' forms, with what `beside` says.
struct Problem {
  std::size_t m = 5, n = 11, k = 7, batch = 1;
  bool a_turned = false, b_turned = false, bias = false, addend = false, sums = false;
};

void check_product(const Types& types, const Problem& p, bool with) {
  CAPTURE(name(types.in), name(types.out), p.a_turned, p.b_turned, p.bias, p.addend, p.sums, p.batch);
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  const std::size_t a_pitch = rounded(p.a_turned ? p.m : p.k) + line, b_pitch = rounded(p.b_turned ? p.k : p.n), c_pitch = rounded(p.n) + 2 * line,
                    r_pitch = rounded(p.n) + line;
  const std::size_t a_size = a_pitch * (p.a_turned ? p.k : p.m), b_size = b_pitch * (p.b_turned ? p.n : p.k), c_size = c_pitch * p.m;
  const Numbers a(types.in, p.batch * a_size, 1), b(types.in, p.batch * b_size, 2), addend(types.out, r_pitch * p.m, 3), bias(types.out, p.n, 4);
  Numbers c(types.out, p.batch * c_size, 5), sums(types.out, p.m, 6);
  std::vector<double> before;  // what stands beside the product stays
  for (std::size_t i = 0; i < p.batch * c_size; ++i) before.push_back(c.at(i));
  Gemm g;
  g.dtype = types.in, g.out_dtype = types.out;
  const auto index = [](std::size_t x) { return static_cast<Index>(x); };
  g.m = index(p.m), g.n = index(p.n), g.k = index(p.k), g.batch = index(p.batch);
  g.a = {a.data, index(a_pitch), p.a_turned, index(a_size)}, g.b = {b.data, index(b_pitch), p.b_turned, index(b_size)};
  g.c = c.data, g.c_pitch = index(c_pitch), g.c_batch_stride = index(c_size);
  if (p.bias) g.bias = bias.data;
  if (p.addend) g.addend = addend.data, g.addend_pitch = index(r_pitch);
  if (p.sums) g.row_sums = sums.data;
  for (int again = 0; again < 2; ++again) {  // the second time by what was found for the first
    if (with)
      REQUIRE(blas->multiply_with(g));
    else
      blas->multiply(g);
  }
  runtime->synchronize();
  const double tolerance = std::sqrt(std::max(1.0, static_cast<double>(p.k) / 64)) * (types.out == DType::bf16 ? 0x1p-7 : types.out == DType::f32 ? 1e-5 : 1e-13);
  for (std::size_t batch = 0; batch < p.batch; ++batch)
    for (std::size_t i = 0; i < p.m; ++i) {
      const auto left = [&](std::size_t k) { return a.at(batch * a_size + (p.a_turned ? i + k * a_pitch : i * a_pitch + k)); };
      double sum = 0;
      for (std::size_t k = 0; k < p.k; ++k) sum += left(k);
      if (p.sums) CHECK(sums.at(i) == Approx(sum).margin(4 * tolerance));
      for (std::size_t j = 0; j < c_pitch; ++j) {
        double wanted = (p.bias && j < p.n ? bias.at(j) : 0) + (p.addend && j < p.n ? addend.at(i * r_pitch + j) : 0);
        if (j < p.n)
          for (std::size_t k = 0; k < p.k; ++k) wanted += left(k) * b.at(batch * b_size + (p.b_turned ? k + j * b_pitch : k * b_pitch + j));
        const std::size_t at = batch * c_size + i * c_pitch + j;
        if (j < p.n)
          CHECK(c.at(at) == Approx(wanted).margin(4 * tolerance));
        else
          CHECK(c.at(at) == before[at]);
      }
    }
}

/// NORMA_CUDA_LT in the environment, while it lives.
class Setting {
 public:
  explicit Setting(const char* word) {
    if (const char* now = std::getenv(variable)) before_ = now;
    ::setenv(variable, word, 1);
  }
  ~Setting() { before_ ? ::setenv(variable, before_->c_str(), 1) : ::unsetenv(variable); }
  Setting(const Setting&) = delete;

 private:
  static constexpr const char* variable = "NORMA_CUDA_LT";
  std::optional<std::string> before_;
};

/// What `work` writes on stderr.
std::string told_by(const std::function<void()>& work) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  const int before = ::dup(2);
  ::dup2(::fileno(file.get()), 2);
  work();
  std::fflush(stderr);
  ::dup2(before, 2), ::close(before);
  std::rewind(file.get());
  std::string text;
  for (int c; (c = std::fgetc(file.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

}  // namespace

TEST_CASE("products by cuBLAS: any form of both operands, one and several", "[cuda_blas]") {
  for (const Types& types : {Types{DType::f32, DType::f32}, {DType::f64, DType::f64}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const std::size_t batch : {1, 3}) check_product(types, {.batch = batch, .a_turned = a_turned, .b_turned = b_turned}, false);
}

TEST_CASE("long sums by cuBLAS have all their terms, also where the library leaves out the last", "[cuda_blas]") {
  for (const Types& types : {Types{DType::f32, DType::f32}, {DType::f64, DType::f64}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const std::size_t batch : {1, 2})
          for (const std::size_t k : {4095, 4096, 4159}) check_product(types, {.m = 2, .n = 3, .k = k, .batch = batch, .a_turned = a_turned, .b_turned = b_turned}, false);
}

TEST_CASE("a long sum that is stored in bf16 is rounded once", "[cuda_blas]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  const std::size_t k = 4098, pitch = rounded(k);
  Numbers a(DType::bf16, pitch, 1), b(DType::bf16, pitch * 8, 2), c(DType::bf16, 8, 3);
  for (std::size_t i = 0; i < pitch * 8; ++i) b.set(i, 1);
  for (std::size_t i = 0; i < k; ++i) a.set(i, i == 0 || i == k - 1 ? 1 : i == k - 2 ? 256 : 0);  // its end, 257, would be stored as 256
  Gemm g;
  g.dtype = g.out_dtype = DType::bf16, g.m = 1, g.n = 8, g.k = static_cast<Index>(k), g.a = {a.data, static_cast<Index>(pitch)}, g.b = {b.data, 8}, g.c = c.data, g.c_pitch = 8;
  blas->multiply(g);
  runtime->synchronize();
  for (std::size_t i = 0; i < 8; ++i) CHECK(c.at(i) == 258);
}

TEST_CASE("products by cuBLASLt: bias, addend and sums of rows beside any form of both operands", "[cuda_blas]") {
  for (const Types& types : {Types{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const int beside : {1, 2, 3, 4})
          check_product(types, {.a_turned = a_turned, .b_turned = b_turned, .bias = beside % 2 != 0, .addend = beside == 2 || beside == 3, .sums = beside == 4}, true);
}

TEST_CASE("a small product of a long sum beside sums of rows is cut, or declined where it may not be", "[cuda_blas]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  const std::size_t k = 4160;
  const Numbers a(DType::bf16, 8 * k, 1), b(DType::bf16, 8 * k, 2), bias(DType::f32, 8, 3);
  Numbers c(DType::f32, 64, 4), sums(DType::f32, 8, 5);
  Gemm g;
  g.dtype = DType::bf16, g.m = g.n = 8, g.k = static_cast<Index>(k), g.a = {a.data, 8, true}, g.b = {b.data, 8}, g.c = c.data, g.c_pitch = 8, g.row_sums = sums.data;
  CHECK(blas->multiply_with(g));  // by the library's second algorithm
  g.k -= 8;                       // which it then has not
  CHECK_FALSE(blas->multiply_with(g));
  g.row_sums = nullptr, g.bias = bias.data;
  CHECK(blas->multiply_with(g));
  g.k = 2040, g.row_sums = sums.data, g.bias = nullptr;
  CHECK(blas->multiply_with(g));
  runtime->synchronize();
  check_product({DType::bf16, DType::f32}, {.m = 8, .n = 8, .k = k, .a_turned = true, .sums = true}, true);
}

TEST_CASE("what cuBLASLt names no algorithm for is declined, and nothing is done", "[cuda_blas]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  const Numbers a(DType::f32, 64, 1), b(DType::f32, 64, 2), bias(DType::f32, 16, 3);
  Numbers c(DType::f32, 64, 4);
  const double before = c.at(0);
  Gemm g;
  g.m = g.n = g.k = 8, g.a = {a.data, 8}, g.b = {b.data, 8}, g.c = c.data, g.c_pitch = 8, g.bias = static_cast<float*>(bias.data) + 1;
  CHECK_FALSE(blas->multiply_with(g));  // a bias for which there is one, but it could fault
  g.row_sums = const_cast<void*>(std::exchange(g.bias, nullptr));
  CHECK_FALSE(blas->multiply_with(g));
  g.row_sums = nullptr, g.bias = bias.data, g.n = g.k = g.m = 7, g.b.pitch = 7;
  CHECK_FALSE(blas->multiply_with(g));
  runtime->synchronize();
  CHECK(c.at(0) == before);
  g.b.pitch = 8;
  CHECK(blas->multiply_with(g));
  runtime->synchronize();
  CHECK(c.at(0) != before);
}

TEST_CASE("verbose tells what cuBLASLt refuses after it has named an algorithm", "[cuda_blas]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const Numbers a(DType::f32, 2 * 136, 1), b(DType::f32, 136 * 8, 2), bias(DType::f32, 8, 3);
  Numbers c(DType::f32, 16, 4);
  Gemm g;
  g.m = 2, g.n = 8, g.k = 136, g.a = {a.data, 136}, g.b = {b.data, 8}, g.c = c.data, g.c_pitch = 8, g.bias = bias.data;
  const Setting verbose("verbose");
  const std::string told = told_by([&] {
    const std::unique_ptr<Blas> blas = make_blas(*runtime);
    for (int again = 0; again < 2; ++again) CHECK_FALSE(blas->multiply_with(g));
  });
  const std::string refusal = "2 x 8, sum of 136, bias: refused: CUBLAS_STATUS_NOT_SUPPORTED\n";
  CHECK_THAT(told, Catch::Contains("taken\n") && Catch::EndsWith(refusal));
  CHECK(told.find(refusal) + refusal.size() == told.size());  // once
}

TEST_CASE("what a Blas has taken it gives back where it cannot be made", "[cuda_blas]") {
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  {
    const Setting wrong("some");
    for (int i = 0; i < 20; ++i) CHECK_THROWS_WITH(make_blas(*runtime), Catch::StartsWith("NORMA_CUDA_LT: \"some\" is unknown"));
  }
  CHECK_NOTHROW(make_blas(*runtime));
}

TEST_CASE("threads that multiply by one Blas find their own kinds of product", "[cuda_blas]") {
  constexpr Index kinds = 2000, n = 8;
  const std::unique_ptr<Runtime> runtime = make_runtime(0);
  const std::unique_ptr<Blas> blas = make_blas(*runtime);
  Numbers ones(DType::f32, 16 * n * n, 1);
  for (std::size_t i = 0; i < 16 * n * n; ++i) ones.set(i, 1);
  const std::array<Numbers, 2> out{Numbers(DType::f32, kinds * n, 2), Numbers(DType::f32, kinds * n, 3)};
  const auto terms = [](Index mine, Index i) { return n * (1 + (i + mine) % 16); };
  std::atomic<int> failed{0};
  std::latch start(2);
  const auto work = [&](Index mine) {
    start.arrive_and_wait();
    for (Index i = 0; i < kinds; ++i) {
      Gemm g;
      g.m = 1, g.n = n, g.k = terms(mine, i);
      g.a = {ones.data, n * (16 + 2 * i + mine), false, 0}, g.b = {ones.data, n, false, 0};  // a pitch that makes it a kind of its own
      g.c = static_cast<float*>(out[static_cast<std::size_t>(mine)].data) + i * n, g.c_pitch = n;
      try {
        failed += !blas->multiply_with(g);
      } catch (const Error&) {
        ++failed;
      }
    }
  };
  std::thread one(work, 0), two(work, 1);
  one.join(), two.join();
  runtime->synchronize();
  CHECK(failed == 0);
  Index wrong = 0;
  for (Index mine = 0; mine < 2; ++mine)
    for (Index i = 0; i < kinds * n; ++i) wrong += out[static_cast<std::size_t>(mine)].at(static_cast<std::size_t>(i)) != static_cast<double>(terms(mine, i / n));
  CHECK(wrong == 0);
}
