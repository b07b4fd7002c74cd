// Runtime on a device: the CUDA runtime API, every call checked.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

#include "backends/cuda/kernel_name.h"
#include "backends/cuda/runtime.h"

namespace norma::cuda {

// Declared in device.h, for kernels/*.cu.
void check_cuda(int code, const char* what);
void check_launch(int code, const void* kernel);
void allow_shared(const void* kernel, std::size_t bytes);
void check_cuda(int code, const char* what) {
  const auto error = static_cast<cudaError_t>(code);
  if (error == cudaSuccess) return;
  cudaGetLastError();  // not again at the next call
  const char* hint = "";
  switch (error) {
    case cudaErrorNoDevice:
      hint = "; no GPU is visible here (nvidia-smi shows those there are)";
      break;
    case cudaErrorInsufficientDriver:
      hint = "; the driver is missing or older than the toolkit this was built with";
      break;
    case cudaErrorNoKernelImageForDevice:
      hint = "; build for this GPU with -DNORMA_CUDA_ARCHITECTURES";
      break;
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
      hint = "; an earlier kernel failed, and the device is lost to this process: run under compute-sanitizer, or with "
             "CUDA_LAUNCH_BLOCKING=1 and no captured step (norma train --no-graph), to see which";
      break;
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      hint = "; the step does something that a graph cannot hold";
      break;
    default:
      break;
  }
  fail("cuda: {}: {} ({}){}", what, cudaGetErrorString(error), cudaGetErrorName(error), hint);
}

/// Null where the runtime does not tell, as of kernels of libraries.
static const char* symbol_of([[maybe_unused]] const void* kernel) {
  const char* name = nullptr;
#if CUDART_VERSION >= 12030
  if (cudaFuncGetName(&name, kernel) == cudaSuccess) return name;
  cudaGetLastError();
#endif
  return nullptr;
}

void check_launch(int code, const void* kernel) {
  if (code == cudaSuccess) return;
  const char* name = symbol_of(kernel);
  check_cuda(code, fmt::format("launch of kernel {}", name ? name : "").c_str());
}

void allow_shared(const void* kernel, std::size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, std::size_t> allowed;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  std::size_t& most = allowed[{device, kernel}];
  if (bytes <= most) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "cudaFuncSetAttribute(shared memory of a kernel)");
  most = bytes;
}

namespace {

class DeviceGraph : public Backend::Graph {
 public:
  DeviceGraph(int device, cudaStream_t stream, cudaGraph_t graph) : device_(device), stream_(stream), graph_(graph) {}
  void instantiate() { check_cuda(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate"); }
  ~DeviceGraph() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_);  // a replay may still run
    if (executable_) cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  void replay() override {
    check_cuda(cudaSetDevice(device_), "cudaSetDevice");
    check_cuda(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch");
  }
  std::vector<std::string> launches() const override {
    std::size_t count = 0;
    check_cuda(cudaGraphGetNodes(graph_, nullptr, &count), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(count);
    check_cuda(cudaGraphGetNodes(graph_, nodes.data(), &count), "cudaGraphGetNodes");
    std::vector<std::string> names;
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type{};
      check_cuda(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      if (type != cudaGraphNodeTypeKernel) {
        names.push_back(type == cudaGraphNodeTypeMemset ? "memset" : type == cudaGraphNodeTypeMemcpy ? "memcpy" : "node");
        continue;
      }
      cudaKernelNodeParams kernel{};
      const bool ours = cudaGraphKernelNodeGetParams(node, &kernel) == cudaSuccess;
      if (!ours) cudaGetLastError();
      const char* symbol = ours ? symbol_of(kernel.func) : nullptr;
      names.push_back(symbol ? kernel_name(symbol) : "product");
    }
    return names;
  }

 private:
  int device_;
  cudaStream_t stream_;
  cudaGraph_t graph_;
  cudaGraphExec_t executable_ = nullptr;
};

struct DeviceEvent : Runtime::Event {
  cudaEvent_t event = nullptr;
  DeviceEvent() { check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"); }
  DeviceEvent(const DeviceEvent&) = delete;
  ~DeviceEvent() override { cudaEventDestroy(event); }
};

class DeviceRuntime : public Runtime {
 public:
  explicit DeviceRuntime(int index) : device_(index) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
      cudaGetLastError();
      fail("device cuda:{}: this machine has no CUDA device; use --device cpu", index);
    }
    check_cuda(error, "cudaGetDeviceCount");
    if (index >= count) fail("device cuda:{}: this machine has {} CUDA device{}", index, count, count == 1 ? "" : "s");
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    if (properties.major < 8)
      fail("device cuda:{}: {} has compute capability {}.{}; Norma needs 8.0 or later", index, properties.name, properties.major,
           properties.minor);
    name_ = properties.name;
    block_shared_bytes_ = properties.sharedMemPerBlockOptin;
    compute_capability_ = 10 * properties.major + properties.minor;
    here("cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~DeviceRuntime() override {
    cudaSetDevice(device_);
    cudaStreamDestroy(copies_);
    cudaStreamDestroy(stream_);
  }

  void* stream() override {
    here("cudaSetDevice");  // what is launched next is of this device
    return stream_;
  }
  std::size_t block_shared_bytes() const override { return block_shared_bytes_; }
  int compute_capability() const override { return compute_capability_; }
  void* allocate(std::size_t bytes) override {
    here("cudaSetDevice");
    void* block = nullptr;
    const cudaError_t error = cudaMalloc(&block, std::max<std::size_t>(bytes, 1));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    check_cuda(error, "cudaMalloc");
    return block;
  }
  void free(void* block) override {  // by destructors too, when an earlier kernel has failed: the next call says so
    cudaSetDevice(device_);
    if (cudaFree(block) != cudaSuccess) cudaGetLastError();
  }
  std::size_t free_bytes() override {
    here("cudaSetDevice");
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  std::string text() const override { return fmt::format("cuda:{}, {}", device_, name_); }
  /// For compute-sanitizer, which else sees the pool's chunks and nothing of the tensors in them.
  bool exact_blocks() const override {
    static const char* word = std::getenv("NORMA_CUDA_BLOCKS");
    return word && std::string_view(word) == "exact";
  }

  void* allocate_pinned(std::size_t bytes) override {
    here("cudaSetDevice");
    void* block = nullptr;
    check_cuda(cudaMallocHost(&block, bytes), "cudaMallocHost");
    return block;
  }
  void free_pinned(void* block) override { cudaFreeHost(block); }
  void copy_to_device(void* device, const void* pinned, std::size_t bytes) override {
    here("cudaSetDevice");
    check_cuda(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync to the device");
  }
  void copy_to_host(void* pinned, const void* device, std::size_t bytes) override {
    here("cudaSetDevice");
    check_cuda(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync to the host");
  }
  void synchronize() override {
    here("cudaSetDevice");
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  void send_to_device(void* device, const void* pinned, std::size_t bytes) override {
    here("cudaSetDevice");  // of the thread that calls
    check_cuda(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, copies_), "cudaMemcpyAsync to the device");
  }
  std::unique_ptr<Event> make_event() override {
    here("cudaSetDevice");
    return std::make_unique<DeviceEvent>();
  }
  void record(Event& event, Lane lane) override {
    here("cudaSetDevice");
    check_cuda(cudaEventRecord(handle(event), stream_of(lane)), "cudaEventRecord");
  }
  void order(Lane lane, Event& event) override {
    here("cudaSetDevice");
    check_cuda(cudaStreamWaitEvent(stream_of(lane), handle(event), 0), "cudaStreamWaitEvent");
  }
  void wait(Event& event) override {
    here("cudaSetDevice");
    check_cuda(cudaEventSynchronize(handle(event)), "cudaEventSynchronize");
  }

  /// Relaxed, so that the pool may ask for memory meanwhile.
  void begin_capture() override {
    here("cudaSetDevice");
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  }
  std::unique_ptr<Backend::Graph> end_capture() override {
    here("cudaSetDevice");
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    auto whole = std::make_unique<DeviceGraph>(device_, stream_, graph);  // frees the graph also where the next line throws
    whole->instantiate();
    return whole;
  }

 private:
  void here(const char* what) { check_cuda(cudaSetDevice(device_), what); }
  cudaStream_t stream_of(Lane lane) const { return lane == Lane::work ? stream_ : copies_; }
  static cudaEvent_t handle(Event& event) { return static_cast<DeviceEvent&>(event).event; }

  int device_;
  std::string name_;
  std::size_t block_shared_bytes_ = 0;
  int compute_capability_ = 0;
  cudaStream_t stream_ = nullptr, copies_ = nullptr;
};

}  // namespace

std::unique_ptr<Runtime> make_runtime(int index) { return std::make_unique<DeviceRuntime>(index); }

}  // namespace norma::cuda
