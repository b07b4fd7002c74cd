// How numbers are made: the families of verbs every device offers. Outputs are allocated by the caller; inputs and outputs
// may have any strides, also zero and negative ones, and any size, also zero. Shapes and dtypes are checked above
// (autograd/); a backend may assume them as documented here.
//
// The required verbs are pure virtual. Fused verbs return false to decline (a dtype, a layout, a size they do not cover):
// the op then runs its composition of the required verbs. A verb never changes its inputs, takes large scratch from its
// device's pool (the reference: from the system), and gives the same bits whatever the number of threads. An output shares
// no memory with an input, except that binary()'s may be one of its own, element for element.
// core/verbs.h tells what they take, and what mixed precision means for them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/op_list.h"
#include "core/verbs.h"

namespace norma {

struct MemoryUse {
  std::size_t in_use = 0;           // bytes held by live storages
  std::size_t peak = 0;             // largest in_use so far
  std::size_t reserved = 0;         // bytes obtained from the system
  std::uint64_t system_requests = 0;  // how often the system was asked
};

enum class RandomKind : std::uint8_t { uniform, normal, keep };  // keep: 1/(1-p) with probability 1-p, else 0

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  /// What decides the bits of results beside sizes, dtypes and values, where that is known: the CPU's instruction set.
  virtual std::string_view instructions() const { return {}; }

  // memory: blocks of at least 64-byte alignment from a caching pool
  virtual void* allocate(std::size_t bytes) = 0;  // never null, nor for 0 bytes; throws Error: need, and what is free
  virtual void release(void* block, std::size_t bytes) = 0;
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const void* device, std::size_t bytes) = 0;
  virtual void synchronize() {}
  virtual MemoryUse memory() const = 0;
  virtual void reset_peak() = 0;

  // element-wise; inputs already have the output's shape (expanded, stride 0)
  virtual void copy(const View& in, const View& out) = 0;  // = cast = contiguous
  virtual void fill(double value, const View& out) = 0;
  virtual void unary(UnaryOp op, const View& x, const View& out, double parameter = 0) = 0;
  virtual void binary(BinaryOp op, const View& a, const View& b, const View& out) = 0;  // comparisons write bool
  virtual void where(const View& condition, const View& a, const View& b, const View& out) = 0;

  // out has x's rank with the reduced axes of size 1; i64 out of sums of integers, argmax and argmin (exactly one axis; ties take the first)
  virtual void reduce(ReduceOp op, const View& x, const View& out) = 0;
  virtual void cumsum(const View& x, int axis, const View& out) = 0;  // one dtype; summed in double or i64, rounded to it at each step

  // a[..., m, k] b[..., k, n] -> out[..., m, n]; leading axes equal (expanded)
  virtual void matmul(const View& a, const View& b, const View& out) = 0;

  // index i64, bounds already checked by `check_index`
  virtual void gather(const View& x, int axis, const View& index, const View& out) = 0;       // index has out's shape
  virtual void scatter_add(const View& x, int axis, const View& index, const View& out) = 0;  // adds into out
  virtual void index_select(const View& x, int axis, const View& index, const View& out) = 0;  // index [n]
  virtual void index_add(const View& x, int axis, const View& index, const View& out) = 0;     // adds into out
  /// Position (row-major) of the first index outside [0, limit), or -1.
  virtual Index check_index(const View& index, Index limit) = 0;

  // x[B, C, h, w] <-> columns[B, C * kernel_h * kernel_w, out_h * out_w]; fold adds where windows overlap
  virtual void unfold(const View& x, const Window& window, const View& columns) = 0;
  virtual void fold(const View& columns, const Window& window, const View& x) = 0;

  virtual void random(RandomKind kind, RandomStream stream, double p, const View& out) = 0;  // out contiguous

  // fused verbs: may decline
  virtual bool softmax(const View& /*x*/, const View& /*y*/, bool /*log*/) { return false; }  // over the last axis
  virtual bool softmax_backward(const View& /*y*/, const View& /*dy*/, const View& /*dx*/, bool /*log*/) { return false; }
  /// dx = dy op'(x), by x or by y = op(x), whichever the op's derivative keeps (autograd/ops_elementwise.cpp).
  virtual bool unary_backward(UnaryOp, const View& /*kept*/, const View& /*dy*/, const View& /*dx*/) { return false; }
  virtual bool layer_norm(const LayerNormForward&) { return false; }
  virtual bool layer_norm_backward(const LayerNormBackward&) { return false; }
  /// How many blocks `rows` rows are summed in when layer_norm_backward() leaves partial sums to join_norm_sums(); 0: it cannot. The bits are the same.
  virtual Index norm_sum_parts(Index /*rows*/) const { return 0; }
  /// The gradients of weights and biases from what layer_norm_backward() left, for many norms at once.
  virtual void join_norm_sums(std::span<const NormSums>) {}
  virtual bool cross_entropy(const CrossEntropy&) { return false; }
  virtual bool cross_entropy_backward(const CrossEntropyBackward&) { return false; }
  /// Whether linear() stores the rounded weight, so that the backward pass can reuse it.
  virtual bool rounds_weights() const { return false; }
  /// Rounds many weights and biases at once: to[i] = from[i] (f32, not empty), rounded; all contiguous.
  virtual void round_weights(std::span<const View> from, std::span<const View> to) {
    for (std::size_t i = 0; i < from.size(); ++i) copy(from[i], to[i]);
  }
  virtual bool linear(const LinearForward&) { return false; }
  virtual bool linear_backward(const LinearBackward&) { return false; }
  virtual bool mlp(const Mlp&) { return false; }  // declined: two linears
  virtual bool mlp_backward(const MlpBackward&) { return false; }
  virtual bool attention(const AttentionForward&) { return false; }
  virtual bool attention_backward(const AttentionBackward&) { return false; }
  virtual bool cut_images(const ImageCuts&) { return false; }
  virtual bool convolution(const Convolution&) { return false; }  // declined: by columns, a piece of the images at a time
  virtual bool convolution_backward(const ConvolutionBackward&) { return false; }
  /// Convolution with one kernel a channel: x[B, C, h, w], weight[C, 1, kernel_h * kernel_w] and bias[C] in its wide type, y[B, C, oh, ow].
  virtual bool depthwise(const View& /*x*/, const View& /*weight*/, const View& /*bias*/, const Window&, const View& /*y*/) { return false; }
  /// dx, and dweight in the wide type, each where it is present.
  virtual bool depthwise_backward(const View& /*dy*/, const View& /*x*/, const View& /*weight*/, const Window&, const View& /*dx*/,
                                  const View& /*dweight*/) {
    return false;
  }

  // all parameters of a model at once
  /// out (f64 []) = the sum of the squares of all elements of all xs (of one dtype), in f64, in an order that the sizes alone
  /// decide: for gradient norms. NaN or infinity in an x gives a non-finite result.
  virtual void sum_of_squares(std::span<const View> xs, const View& out) = 0;
  virtual void adamw(const AdamW& args) = 0;
  virtual bool gradient_scale(const GradientScale&) { return false; }  // may decline
  /// One step of each: average += (value - average) * (1 - decay), each step rounded to the dtype: the bits of sub, mul and add.
  virtual void moving_averages(std::span<const MovingAverage> all, double decay) = 0;

  /// A way for batches to reach the device while it computes: slots of two buffers each, one on the host and one on the device. One
  /// thread fills and sends, another takes and gives back; a slot goes round fill, send, take, give back, and may be filled and sent again
  /// instead of being taken. Neither send nor take waits for the device.
  struct Feed {
    virtual ~Feed() = default;
    /// The host's buffer, to be written; waits until what was last sent from it has arrived.
    virtual void* fill(int slot) = 0;
    /// Starts the copy to the device, which begins once the work that read the device's buffer is done.
    virtual void send(int slot) = 0;
    /// The device's buffer, for work asked for from now on: it begins once the copy has arrived.
    virtual void* take(int slot) = 0;
    /// The work asked for so far is the last that reads the device's buffer.
    virtual void give_back(int slot) = 0;
  };
  /// nullptr: what is uploaded is there at once, or arrives in order with the work.
  virtual std::unique_ptr<Feed> feed(int /*slots*/, std::size_t /*bytes*/) { return nullptr; }

  /// A step captured once and replayed (CUDA graphs); nullptr: run eagerly.
  struct Graph {
    virtual ~Graph() = default;
    virtual void replay() = 0;
    /// What a replay launches, in order: kernels by their names, "product" where it is a library's; copies and the like by what they are.
    virtual std::vector<std::string> launches() const { return {}; }
  };
  virtual std::unique_ptr<Graph> capture(const std::function<void()>&) { return nullptr; }
};

/// The backend of a device; throws Error naming what this build has. Backends are made on first use.
Backend& backend(Device device);
/// Backend::sum_of_squares of one tensor, on the host.
double sum_of_squares(const Tensor& x);
using BackendFactory = std::unique_ptr<Backend> (*)(int index);
/// Called by each backend's own registration, which backends/register_all.cpp calls.
void register_backend(Device::Kind kind, BackendFactory factory);

}  // namespace norma
