#include "backends/cuda/emulator/warpgroup.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/emulator/order.h"
#include "backends/cuda/matrix_descriptor.h"
#include "core/error.h"

namespace norma::cuda::emulator {
namespace {

float widened(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

/// The matrix [rows, 16] that `bits` describes, and where it lies.
std::vector<float> gather(std::uint64_t bits, Major major, std::uint32_t rows, bool ordered, Product::Range& range) {
  const MatrixDescriptor m = MatrixDescriptor::of(bits);
  if (m.bits() != bits) fail("emulator: matrix descriptor {:#018x} has a base offset or bits without meaning", bits);
  if (m.swizzle != Swizzle::none) {
    const std::uint32_t line = pattern_row(m.swizzle), used = major == Major::k ? 32 : std::min(2 * rows, line);
    if (m.start % (8 * line) >= line)
      fail(
          "emulator: matrix descriptor {:#018x}: {:#x} is not in the first row of a pattern, which starts at a "
          "multiple of {}",
          bits, m.start, 8 * line);
    if (m.start % line + used > line)
      fail("emulator: matrix descriptor {:#018x}: the operand leaves its row of the pattern", bits);
  }
  std::vector<float> all(rows * 16);
  range = {0xffffffffu, 0};
  for (std::uint32_t i = 0; i < rows; ++i)
    for (std::uint32_t k = 0; k < 16; ++k) {
      const std::uint32_t address = m.address(major, i, k);
      all[i * 16 + k] = widened(async_proxy().read(address, ordered));
      range = {std::min(range.begin, address), std::max(range.end, address + 2)};
    }
  return all;
}

/// Reads what the product has in shared memory.
void read_operands(Product& x, bool ordered) {
  if (!x.call.a_in_registers) x.a = gather(x.call.a_descriptor, Major::k, 64, ordered, x.a_range);
  x.b = gather(x.call.b_descriptor, x.call.a_in_registers ? Major::mn : Major::k, x.call.n, ordered, x.b_range);
}

bool same(const std::vector<float>& x, const std::vector<float>& y) {
  return std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

/// A thread has waited; the last one of the warpgroup looks whether shared memory is still what was multiplied.
void waited_for(Product& x) {
  if (++x.waited < 128) return;
  Product now = x;
  read_operands(now, false);
  if (!same(now.a, x.a) || !same(now.b, x.b))
    fail("emulator: shared memory of a product is written before the whole warpgroup has waited for it");
}

}  // namespace

bool Product::reads(std::uint32_t address) const {
  const auto meets = [address](const Range& r) { return address < r.end && address + 16 > r.begin; };
  return under_way() && (meets(a_range) || meets(b_range));
}

std::shared_ptr<Product> product_of(const std::array<ProductCall, 128>& calls) {
  const ProductCall& first = calls[0];
  for (unsigned t = 1; t < 128; ++t)
    if (calls[t].a_descriptor != first.a_descriptor || calls[t].b_descriptor != first.b_descriptor ||
        calls[t].n != first.n || calls[t].accumulate != first.accumulate)
      fail("emulator: lanes 0 and {} of a warpgroup bring different descriptors or options to a product", t);
  auto x = std::make_shared<Product>();
  x->call = first;
  read_operands(*x, true);
  if (first.a_in_registers) {
    x->a.resize(64 * 16);
    for (std::uint32_t t = 0; t < 128; ++t)
      for (std::uint32_t i = 0; i < 8; ++i) {
        const FragmentElement at = fragment_element(t, i);
        x->a[at.row * 16 + at.column] = widened(static_cast<std::uint16_t>(calls[t].a[i / 2] >> (16 * (i % 2))));
      }
  }
  return x;
}

std::uint32_t shared_address(const void* shared) {
  return shared_window + static_cast<std::uint32_t>(static_cast<const char*>(shared) - here().shared);
}

void AsyncProxy::begin(const char* shared, std::size_t bytes, unsigned threads) {
  shared_ = shared, bytes_ = bytes, fences_ = 0;
  seen_.clear();
  fenced_.assign(threads, 0);
}
void AsyncProxy::fence(unsigned thread) {
  if (!fenced_[thread]) fenced_[thread] = 1, ++fences_;
}
void AsyncProxy::written(unsigned thread) {
  if (fenced_[thread]) fenced_[thread] = 0, --fences_;
}
void AsyncProxy::barrier() {
  if (fences_ == 0) return;
  if (fences_ == fenced_.size()) seen_.assign(shared_, shared_ + bytes_);
  fenced_.assign(fenced_.size(), 0), fences_ = 0;
}
std::uint16_t AsyncProxy::read(std::uint32_t address, bool ordered) const {
  const std::size_t at = address - shared_window;
  if (address < shared_window || at + 2 > bytes_)
    fail("emulator: a product reads {:#x}, past the {} bytes of shared memory", address, bytes_);
  std::uint16_t now, seen = 0xffff;
  std::memcpy(&now, shared_ + at, 2);
  if (!seen_.empty()) std::memcpy(&seen, seen_.data() + at, 2);
  if (ordered && now != seen)
    fail(
        "emulator: a product reads byte {} of shared memory, which was written without fence_async_proxy by every "
        "thread and a barrier after it",
        at);
  return now;
}

Products::Group& Products::open() {
  if (groups_.empty()) groups_.emplace_back();
  return groups_.back();
}

void Products::add(float* d, const std::shared_ptr<Product>& product) {
  if (!fenced_) fail("emulator: thread {} multiplies without fence_products since it began or waited", here().thread);
  const std::size_t count = product->call.n / 2;
  std::vector<float> sums(count, 0.0f);
  const std::vector<float>* before = nullptr;
  for (Group& g : groups_)
    for (Result& r : g.results)
      if (r.d == d) before = &r.values;
  if (product->call.accumulate) sums = before ? *before : std::vector<float>(d, d + count);
  const unsigned thread = here().thread % 128;
  for (std::uint32_t i = 0; i < count; ++i) {
    const FragmentElement at = fragment_element(thread, i);
    const float *x = &product->a[at.row * 16], *y = &product->b[at.column * 16];
    for (std::size_t k = 0; k < 16; ++k) sums[i] += x[k] * y[k];
    d[i] = std::numeric_limits<float>::quiet_NaN();
  }
  Group& group = open();
  std::erase_if(group.results, [d](const Result& r) { return r.d == d; });
  group.results.push_back({d, std::move(sums)});
  group.products.push_back(product);
}

void Products::commit() {
  open();
  groups_.emplace_back();
}

void Products::wait(int pending) {
  fenced_ = false;
  while (!groups_.empty() && static_cast<int>(groups_.size()) - 1 > pending) {
    const Group done = std::move(groups_.front());
    groups_.erase(groups_.begin());
    for (const std::shared_ptr<Product>& product : done.products) waited_for(*product);
    for (const Result& r : done.results) {
      for (std::size_t i = 0; i < r.values.size(); ++i)
        if (!std::isnan(r.d[i]))
          fail("emulator: thread {} writes registers of a product before it waits for it", here().thread);
      bool later = false;
      for (const Group& g : groups_)
        for (const Result& other : g.results) later = later || other.d == r.d;
      if (!later) std::copy(r.values.begin(), r.values.end(), r.d);
    }
  }
  if (groups_.size() == 1 && groups_[0].results.empty()) groups_.clear();
}

void fence_async_proxy() {
  const Hidden hidden;
  async_proxy().fence(here().thread);
}
void fence_products() {
  const Hidden hidden;
  products().fence();
}
void commit_products() {
  const Hidden hidden;
  products().commit();
}
void wait_products(int pending) {
  const Hidden hidden;
  products().wait(pending);
}

void multiply_shared(float* d, unsigned n, std::uint64_t a, std::uint64_t b, bool accumulate) {
  const Hidden hidden;
  products().add(d, meet({a, b, {}, n, false, accumulate}));
}
void multiply_registers(float* d, unsigned n, const std::uint32_t (&a)[4], std::uint64_t b) {
  const Hidden hidden;
  products().add(d, meet({0, b, {a[0], a[1], a[2], a[3]}, n, true, true}));
}

}  // namespace norma::cuda::emulator
