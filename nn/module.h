// What has parameters and buffers. Only visit() is virtual: names, counting, saving, loading, freezing, device moves and taps
// follow from that one line per layer. Modules are plain values of handles: a copy shares its parameters.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/anomaly.h"
#include "autograd/ops.h"
#include "autograd/rounded_weights.h"

namespace norma::nn {

class Tap;
class Module;

class Visitor {
 public:
  virtual ~Visitor() = default;
  void operator()(std::string_view name, Tensor& parameter) {
    if (parameter) tensor(name, parameter);
  }
  /// What is saved and moved as parameters are but never learns: fixed positions, running statistics. All that collects parameters throws
  /// where it is tracked: it would gather gradients, and computed anew in each step keep the graphs of all.
  void buffer(std::string_view name, Tensor& values) {
    if (values) fixed(name, values);
  }
  void operator()(std::string_view name, Tap& place) { tap(name, place); }
  void operator()(std::string_view name, Module& child) { enter(name, child); }
  template <class M>
  void operator()(std::string_view name, std::unique_ptr<M>& child) {
    if (child) (*this)(name, *child);
  }
  template <class M>
  void operator()(std::string_view name, std::vector<M>& children) {
    for (std::size_t i = 0; i < children.size(); ++i) (*this)(std::string(name) + "." + std::to_string(i), children[i]);
  }

 protected:
  virtual void tensor(std::string_view name, Tensor& parameter) = 0;
  virtual void fixed(std::string_view name, Tensor& buffer) = 0;
  virtual void tap(std::string_view, Tap&) {}
  virtual void enter(std::string_view name, Module& child) = 0;
};

class Module {
 public:
  virtual ~Module() = default;
  virtual void visit(Visitor& v) = 0;

 protected:
  Module() = default;
  Module(const Module&) = default;
  Module(Module&&) = default;
  Module& operator=(const Module&) = default;
  Module& operator=(Module&&) = default;
};

/// Dotted names in visiting order: "blocks.3.attn.qkv.weight". One tensor at two places (tied weights) has both names.
using Named = std::vector<std::pair<std::string, Tensor>>;
Named parameters(Module& m);
/// All that a checkpoint holds: the parameters, and with them the buffers; a tensor at two places once, by its first name.
Named state(Module& m);
/// What state() leaves out: the further names of tied weights.
Named further_names(Module& m);
Index parameter_count(Module& m);  // tied weights once; without buffers
/// f(name, tensor) may replace the tensor. Throws naming a name that two have, buffers included, as all that collects parameters does.
void for_each_parameter(Module& m, const std::function<void(const std::string&, Tensor&)>& f);
/// Puts other tensors in the places of parameters and buffers, where they differ; tied weights stay tied. An optimizer that was made
/// before goes on with the old ones: make it afterwards. Buffers of integers keep their dtype. Where they throw, nothing was moved.
void to(Module& m, Device device);
void to(Module& m, DType dtype);
std::string_view advice_on(DType refused);  // the end of a message that parameters cannot be of that dtype
void track(Module& m, bool on = true);
void zero_grad(Module& m);  // drops the gradients
/// f(name, tap) at every place that can be watched: "blocks.3.attn.weights". A tap at two places, of a module that is shared, has both names.
/// Throws naming a name that two have.
void for_each_tap(Module& m, const std::function<void(const std::string&, Tap&)>& f);
/// Copies values by name. One tensor under two names (tied weights) needs a value under one of them; under both it must be the
/// same. Values may be targets themselves, as where two layers change places. Throws one message that tells missing, unexpected and wrongly shaped
/// names and such values that differ, three of each; then nothing was written. `what` names the targets in that message.
void assign(const Named& targets, const Named& values, std::string_view what);
/// To its parameters and buffers, by any of their names. Names that one of the globs `ignored` matches (nn/glob.h) are passed over on both
/// sides: such a value is not used, such a parameter stays as it is, of whatever shape, with or without a value. Of a file that has more, and
/// a new head: assign(m, file.tensors, {"*.attn_mask", "head.*"}). Tied weights are passed over where all their names are.
void assign(Module& m, const Named& values, const std::vector<std::string>& ignored = {});

/// While alive, layers of `m`, which is on `device`, find their f32 parameters rounded to the activations' dtype all at once, where the device has a
/// use for that (autograd/rounded_weights.h); without mixed precision it does nothing.
class RoundedParameters {
 public:
  RoundedParameters(Module& m, std::optional<DType> activations, Device device);

 private:
  std::optional<RoundedWeights> weights_;
};

/// While alive, what this thread computes happens inside `m`: for the reports of anomaly mode, and for error messages, which end with
/// the module's path, " (in blocks.3.attn)", from the outermost module inside which the thread is.
class Inside : public AnomalyPlace {
 public:
  explicit Inside(const Module& m) : AnomalyPlace(&m), module_(m), outer_(std::exchange(innermost_, this)) { where_failed = ending; }
  ~Inside() { innermost_ = outer_; }

 private:
  static std::string ending() noexcept;
  static inline constinit thread_local const Inside* innermost_ = nullptr;
  const Module& module_;
  const Inside* outer_;
};
/// The dotted path of the module at `place` (Anomaly::place): "blocks.3.attn"; "" for `root` itself and for what it does not hold.
std::string path_of(Module& root, const void* place);

/// While alive, layers such as Dropout and DropPath are active on this thread (they draw from the RandomScope).
class Training {
 public:
  [[nodiscard]] explicit Training(bool on = true);
  ~Training();
  Training(const Training&) = delete;
  static bool active();

 private:
  bool old_;
};

}  // namespace norma::nn
