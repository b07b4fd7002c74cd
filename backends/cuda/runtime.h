// The two doors to the machine, so that everything else is the same with a device and without one: Runtime (memory, copies, a
// stream, graphs) and Blas (matrix products). runtime_cuda.cpp and blas_cuda.cpp are the real ones, emulator/ the host's.
#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace norma::cuda {

class Runtime {
 public:
  virtual ~Runtime() = default;
  /// The stream that all work of a backend goes to, in order.
  virtual void* stream() = 0;
  /// The most blocks along a grid's second axis.
  virtual unsigned grid_y() const { return 65535; }
  /// The most shared memory that a block may ask for.
  virtual std::size_t block_shared_bytes() const = 0;
  virtual int compute_capability() const = 0;  // 10 major + minor

  // Device memory, at least 256-byte aligned; null when there is none left.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void free(void* block) = 0;
  virtual std::size_t free_bytes() = 0;
  virtual std::string text() const = 0;  // "cuda:0 (NVIDIA H200)"
  /// The pool hands out `bytes` of a block, in use before or not: a place for a checker to make what nobody wrote show.
  virtual void hand_out(void* /*block*/, std::size_t /*bytes*/) {}
  /// Every block is to be asked for and given back by itself, so that a checker of memory sees its bounds.
  virtual bool exact_blocks() const { return false; }

  // Pinned host memory and copies between it and the device, in the stream of the work; the copies return before they are done.
  virtual void* allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(void* block) = 0;
  virtual void copy_to_device(void* device, const void* pinned, std::size_t bytes) = 0;
  virtual void copy_to_host(void* pinned, const void* device, std::size_t bytes) = 0;
  virtual void synchronize() = 0;

  /// The stream of the work, and one beside it for copies to the device. Events order them; any thread may use what follows.
  enum class Lane { work, copies };
  virtual void send_to_device(void* device, const void* pinned, std::size_t bytes) = 0;  // in Lane::copies
  /// A point of a stream. Until it is recorded, nothing stands before it.
  struct Event {
    virtual ~Event() = default;
  };
  virtual std::unique_ptr<Event> make_event() = 0;
  /// Makes the present end of the lane the event's point.
  virtual void record(Event& event, Lane lane) = 0;
  /// What is put into the lane from now on begins after the event.
  virtual void order(Lane lane, Event& event) = 0;
  /// The host waits until what stands before the event is done.
  virtual void wait(Event& event) = 0;

  /// From here to end_capture, work for the stream is recorded instead of done.
  virtual void begin_capture() = 0;
  virtual std::unique_ptr<Backend::Graph> end_capture() = 0;
};

/// C[m, n] = A[m, k] B[k, n], `batch` of them. A matrix is dense along one of its axes: row-major with `pitch` elements from
/// row to row, or, `transposed`, column-major with `pitch` from column to column. C is row-major.
struct Gemm {
  static constexpr Index most_batch = 65535;  // a grid's third axis, which kernels of libraries give to the batch
  struct Operand {
    const void* data = nullptr;
    Index pitch = 0;
    bool transposed = false;
    Index batch_stride = 0;
  };
  DType dtype = DType::f32;      // of A and B: f32, f64, bf16
  DType out_dtype = DType::f32;  // the same, or f32 for bf16
  Index m = 0, n = 0, k = 0, batch = 1;
  Operand a, b;
  void* c = nullptr;
  Index c_pitch = 0, c_batch_stride = 0;

  // For multiply_with alone, all of out_dtype and one product: C = A B + bias + addend, rounded once; and sums beside it.
  const void* bias = nullptr;    // [n], for every row
  const void* addend = nullptr;  // [m, n], row-major, not C
  Index addend_pitch = 0;
  void* row_sums = nullptr;      // [m]: receives the sums of A's rows over k; not together with bias
};

class Blas {
 public:
  virtual ~Blas() = default;
  virtual void multiply(const Gemm& gemm) = 0;  // m, n, k and batch are not 0
  /// The same with what the Gemm says beside the product. False, and nothing is done, where the library does not cover the case: the
  /// answer follows from sizes, dtypes and alignments alone.
  virtual bool multiply_with(const Gemm& gemm) = 0;
};

/// Throws Error where the device is not there, naming what is.
std::unique_ptr<Runtime> make_runtime(int index);
std::unique_ptr<Blas> make_blas(Runtime& runtime);

}  // namespace norma::cuda
