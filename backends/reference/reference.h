// The reference backend: every required verb in its plainest form, one element at a time, sums in double. It is the
// oracle of the tests and the smallest example of a backend. It declines every fused verb, so that ops run their
// compositions.
#pragma once

#include <mutex>

#include "core/backend.h"

namespace norma {

class ReferenceBackend : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

  // reference.cpp
  void* allocate(std::size_t bytes) override;
  void release(void* block, std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  MemoryUse memory() const override;
  void reset_peak() override;

  // elements.cpp
  void copy(const View& in, const View& out) override;
  void fill(double value, const View& out) override;
  void unary(UnaryOp op, const View& x, const View& out, double parameter) override;
  void binary(BinaryOp op, const View& a, const View& b, const View& out) override;
  void where(const View& condition, const View& a, const View& b, const View& out) override;
  void random(RandomKind kind, RandomStream stream, double p, const View& out) override;

  // sums.cpp
  void reduce(ReduceOp op, const View& x, const View& out) override;
  void cumsum(const View& x, int axis, const View& out) override;
  void matmul(const View& a, const View& b, const View& out) override;

  // parameters.cpp
  void sum_of_squares(std::span<const View> xs, const View& out) override;
  void adamw(const AdamW& args) override;
  void moving_averages(std::span<const MovingAverage> all, double decay) override;

  // places.cpp
  void gather(const View& x, int axis, const View& index, const View& out) override;
  void scatter_add(const View& x, int axis, const View& index, const View& out) override;
  void index_select(const View& x, int axis, const View& index, const View& out) override;
  void index_add(const View& x, int axis, const View& index, const View& out) override;
  Index check_index(const View& index, Index limit) override;
  void unfold(const View& x, const Window& window, const View& columns) override;
  void fold(const View& columns, const Window& window, const View& x) override;

 private:
  mutable std::mutex mutex_;
  MemoryUse use_;
};

/// Makes Device::Kind::reference known.
void register_reference();

}  // namespace norma
