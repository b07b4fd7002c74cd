// The CUDA backend. The host side of each family of verbs has its file here, its kernels theirs in kernels/*.cu: memory.cpp,
// feed.cpp, elementwise.cpp, reduce.cpp, index.cpp, depthwise.cpp, norm.cpp, products.cpp, attention.cpp, images.cpp, parameters.cpp. Built against a device
// or, for the tests, against the emulator: runtime.h. Any thread may call any verb, but not while another one captures a step.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "backends/cuda/pool.h"
#include "backends/cuda/runtime.h"

namespace norma::cuda {

struct AttentionProblem;  // kernels/attention.h
struct LinearState;

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(int index);
  ~CudaBackend() override;
  std::string_view name() const override { return "cuda"; }

  void* allocate(std::size_t bytes) override;
  void release(void* block, std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  void synchronize() override;
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
  bool rounds_weights() const override { return true; }
  void round_weights(std::span<const View> from, std::span<const View> to) override;
  bool linear(const LinearForward& args) override;
  bool linear_backward(const LinearBackward& args) override;

  void gather(const View& x, int axis, const View& index, const View& out) override;
  void scatter_add(const View& x, int axis, const View& index, const View& out) override;
  void index_select(const View& x, int axis, const View& index, const View& out) override;
  void index_add(const View& x, int axis, const View& index, const View& out) override;
  Index check_index(const View& index, Index limit) override;

  void unfold(const View& x, const Window& window, const View& columns) override;
  void fold(const View& columns, const Window& window, const View& x) override;
  bool depthwise(const View& x, const View& weight, const View& bias, const Window& window, const View& y) override;
  bool depthwise_backward(const View& dy, const View& x, const View& weight, const Window& window, const View& dx, const View& dweight) override;
  void random(RandomKind kind, RandomStream stream, double p, const View& out) override;

  bool softmax(const View& x, const View& y, bool log) override;
  bool softmax_backward(const View& y, const View& dy, const View& dx, bool log) override;
  bool unary_backward(UnaryOp op, const View& kept, const View& dy, const View& dx) override;
  bool layer_norm(const LayerNormForward& args) override;
  bool layer_norm_backward(const LayerNormBackward& args) override;
  Index norm_sum_parts(Index rows) const override;
  void join_norm_sums(std::span<const NormSums> all) override;
  bool cross_entropy(const CrossEntropy& args) override;
  bool cross_entropy_backward(const CrossEntropyBackward& args) override;
  bool attention(const AttentionForward& args) override;
  bool attention_backward(const AttentionBackward& args) override;
  bool cut_images(const ImageCuts& args) override;

  void sum_of_squares(std::span<const View> xs, const View& out) override;
  void adamw(const AdamW& args) override;
  bool gradient_scale(const GradientScale& args) override;
  void moving_averages(std::span<const MovingAverage> all, double decay) override;

  std::unique_ptr<Feed> feed(int slots, std::size_t bytes) override;
  std::unique_ptr<Graph> capture(const std::function<void()>& step) override;
  /// Throws Error while another thread captures a step: what is put into its stream would be in the graph, and not be done.
  void refuse_beside_capture() const;

 private:
  /// A piece of device memory for one verb; it goes back to the pool at once, and the stream's order keeps it safe.
  class Scratch {
   public:
    Scratch(Pool& pool, std::size_t bytes) : pool_(pool), bytes_(bytes), data_(pool.allocate(bytes)) {}
    ~Scratch() { pool_.release(data_, bytes_); }
    Scratch(const Scratch&) = delete;
    template <class T>
    T* as() const { return static_cast<T*>(data_); }

   private:
    Pool& pool_;
    std::size_t bytes_;
    void* data_;
  };
  template <class T>
  Scratch scratch(Index count) { return Scratch(pool_, static_cast<std::size_t>(count) * sizeof(T)); }
  void* stream() {
    refuse_beside_capture();
    return runtime_->stream();
  }
  void refuse_in_capture(const char* what) const;
  View blas_ready(const View& m, std::optional<Scratch>& room);
  void multiply(const View& left, const View& right, const View& out);
  bool multiply_with(const View& left, const View& right, const View& out, Gemm gemm);
  View narrowed(const View& weight, const View& to, const View& bias, DType dtype, std::optional<Scratch>& room, const void*& bias_there);
  void sum_state(const AttentionProblem& p, LinearState s, DType dtype);
  void linear_attention(const AttentionForward& args, const AttentionProblem& p);
  void linear_attention_backward(const AttentionBackward& args, const AttentionProblem& p);

  std::unique_ptr<Runtime> runtime_;
  Pool pool_;
  std::unique_ptr<Blas> blas_;
  struct Staging {
    void* buffer = nullptr;  // pinned
    std::unique_ptr<Runtime::Event> sent;
  };
  template <std::size_t n>
  struct StagingRing {
    std::array<Staging, n> slots;
    std::size_t used = 0;
    Staging& next() { return slots[used++ % n]; }
  };
  std::mutex staging_mutex_;  // of both rings: a pinned buffer is one copy's until it has been sent, or read
  StagingRing<2> staging_;
  StagingRing<8> small_staging_;
  std::atomic<std::thread::id> capturing_{};  // which thread does; none
};

}  // namespace norma::cuda

namespace norma {

/// Makes Device::Kind::cuda known. The device itself is opened on first use.
void register_cuda();

}  // namespace norma
