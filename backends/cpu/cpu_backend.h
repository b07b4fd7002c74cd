// The CPU backend. Each family of verbs has its file: memory.cpp, elementwise.cpp, copy.cpp, reduce.cpp, index.cpp, window.cpp, convolution.cpp,
// depthwise.cpp, random.cpp, norm.cpp (softmax, layer norm, cross-entropy), linear.cpp (products), mlp.cpp, attention.cpp, parameters.cpp (gradient
// norm, AdamW).
#pragma once

#include <memory>

#include "core/backend.h"

namespace norma::cpu {

class Pool;  // memory.cpp

class CpuBackend : public Backend {
 public:
  CpuBackend();
  ~CpuBackend() override;
  std::string_view name() const override { return "cpu"; }
  std::string_view instructions() const override;

  void* allocate(std::size_t bytes) override;
  void release(void* block, std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  MemoryUse memory() const override;
  void reset_peak() override;

  void copy(const View& in, const View& out) override;
  void fill(double value, const View& out) override;
  void unary(UnaryOp op, const View& x, const View& out, double parameter) override;
  void binary(BinaryOp op, const View& a, const View& b, const View& out) override;
  void where(const View& condition, const View& a, const View& b, const View& out) override;

  void reduce(ReduceOp op, const View& x, const View& out) override;
  void cumsum(const View& x, int axis, const View& out) override;

  void matmul(const View& a, const View& b, const View& out) override;
  bool linear(const LinearForward& args) override;
  bool linear_backward(const LinearBackward& args) override;
  bool mlp(const Mlp& args) override;
  bool mlp_backward(const MlpBackward& args) override;

  void gather(const View& x, int axis, const View& index, const View& out) override;
  void scatter_add(const View& x, int axis, const View& index, const View& out) override;
  void index_select(const View& x, int axis, const View& index, const View& out) override;
  void index_add(const View& x, int axis, const View& index, const View& out) override;
  Index check_index(const View& index, Index limit) override;

  void unfold(const View& x, const Window& window, const View& columns) override;
  void fold(const View& columns, const Window& window, const View& x) override;
  bool convolution(const Convolution& args) override;
  bool convolution_backward(const ConvolutionBackward& args) override;
  bool depthwise(const View& x, const View& weight, const View& bias, const Window& window, const View& y) override;
  bool depthwise_backward(const View& dy, const View& x, const View& weight, const Window& window, const View& dx, const View& dweight) override;
  void random(RandomKind kind, RandomStream stream, double p, const View& out) override;

  bool softmax(const View& x, const View& y, bool log) override;
  bool softmax_backward(const View& y, const View& dy, const View& dx, bool log) override;
  bool unary_backward(UnaryOp op, const View& kept, const View& dy, const View& dx) override;
  bool layer_norm(const LayerNormForward& args) override;
  bool layer_norm_backward(const LayerNormBackward& args) override;
  bool cross_entropy(const CrossEntropy& args) override;
  bool cross_entropy_backward(const CrossEntropyBackward& args) override;
  bool attention(const AttentionForward& args) override;
  bool attention_backward(const AttentionBackward& args) override;

  void sum_of_squares(std::span<const View> xs, const View& out) override;
  void adamw(const AdamW& args) override;
  void moving_averages(std::span<const MovingAverage> all, double decay) override;

 private:
  std::unique_ptr<Pool> pool_;
};

}  // namespace norma::cpu

namespace norma {

/// Makes Device::Kind::cpu known.
void register_cpu();

}  // namespace norma
