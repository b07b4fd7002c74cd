// The emulator's products of warpgroups (backends/cuda/warpgroup.h). Descriptors are decoded and shared memory is read
// through them. Beside what the rest of the emulator watches, it throws where
// - lanes of a warpgroup bring different descriptors, or one that is not as matrix_descriptor.h says: unknown bits, a
//   base offset, a start that is not in the first row of its pattern, an operand that leaves its row of the pattern or
//   the block's shared memory;
// - shared memory that a product reads was written and not ordered before it: no fence_async_proxy by every thread
//   between its last copy and a barrier, or a write since that barrier; or it is written, or a copy to it begins,
//   before the whole warpgroup has waited for the product;
// - a product comes without fence_products since the thread began or waited; its registers are written before it was
//   waited for; a thread leaves with products under way.
// Until the wait the registers of D hold NaN. What it cannot see: registers of A written before the wait, and registers
// written between fence_products and the product.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace norma::cuda::emulator {

/// Where the block's shared memory begins in the window that descriptors address: behind what a device keeps for
/// itself, and at no multiple of a pattern.
constexpr std::uint32_t shared_window = 1024 + 48;
std::uint32_t shared_address(const void* shared);

void fence_async_proxy();
void fence_products();
void commit_products();
void wait_products(int pending);
/// d [n / 2]: the thread's fragment of D [64, n]. a and b as in backends/cuda/warpgroup.h.
void multiply_shared(float* d, unsigned n, std::uint64_t a, std::uint64_t b, bool accumulate);
void multiply_registers(float* d, unsigned n, const std::uint32_t (&a)[4], std::uint64_t b);

/// A block's shared memory as the async proxy sees it: as it was at the last barrier before which all threads had
/// fenced.
class AsyncProxy {
 public:
  void begin(const char* shared, std::size_t bytes, unsigned threads);
  void fence(unsigned thread);
  /// A copy of the thread has arrived: what it fenced before does not cover that.
  void written(unsigned thread);
  void barrier();
  /// The 16-bit element at `address` of the window. Throws where the block has no such address and, `ordered`, where
  /// the proxy may see another value.
  std::uint16_t read(std::uint32_t address, bool ordered) const;

 private:
  const char* shared_ = nullptr;
  std::size_t bytes_ = 0;
  std::vector<char> seen_;  // empty: as the block found it
  std::vector<char> fenced_;
  unsigned fences_ = 0;
};

/// A product as one thread brings it.
struct ProductCall {
  std::uint64_t a_descriptor = 0, b_descriptor = 0;
  std::array<std::uint32_t, 4> a{};
  std::uint32_t n = 0;
  bool a_in_registers = false, accumulate = false;
};
/// What a warpgroup multiplies: A [64, 16] and B^T [n, 16] as f32, and how many of its threads have waited for it.
struct Product {
  ProductCall call;
  std::vector<float> a, b;
  unsigned waited = 0;
  /// Where operands in shared memory lie: the first address and the one behind the last.
  struct Range {
    std::uint32_t begin = 0, end = 0;
  };
  Range a_range, b_range;

  bool under_way() const { return waited < 128; }
  /// Whether it may read one of the 16 bytes from `address` on.
  bool reads(std::uint32_t address) const;
};

/// One thread's products under way.
class Products {
 public:
  void fence() { fenced_ = true; }
  void commit();
  void wait(int pending);
  bool none() const { return groups_.empty(); }
  void clear() { groups_.clear(), fenced_ = false; }
  /// Adds the thread's part of the product to d, or, as it says, puts it there.
  void add(float* d, const std::shared_ptr<Product>& product);

 private:
  struct Result {
    float* d;
    std::vector<float> values;
  };
  struct Group {
    std::vector<Result> results;
    std::vector<std::shared_ptr<Product>> products;
  };
  Group& open();
  std::vector<Group> groups_;  // the last is open
  bool fenced_ = false;
};

// Of what runs now; emulator.cpp.
AsyncProxy& async_proxy();
Products& products();
/// All threads of the warpgroup meet, with calls that are equal but for `a`: the product of them.
std::shared_ptr<Product> meet(const ProductCall& call);

std::shared_ptr<Product> product_of(const std::array<ProductCall, 128>& calls);

}  // namespace norma::cuda::emulator
