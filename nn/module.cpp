// One walk over a module and its children, and what follows from it.
#include "nn/module.h"

#include <map>

#include "nn/tap.h"

namespace norma::nn {
namespace {

/// Walks a module and its children, with the dotted path of where it is.
class Walk : public Visitor {
 public:
  std::function<void(const std::string&, Tensor&)> on_tensor;
  std::function<void(const std::string&, Tap&)> on_tap;
  std::function<void(const std::string&, const Module&)> on_module;

 protected:
  void tensor(std::string_view name, Tensor& parameter) override {
    if (on_tensor) on_tensor(path(name), parameter);
  }
  void tap(std::string_view name, Tap& place) override {
    if (on_tap) on_tap(path(name), place);
  }
  void enter(std::string_view name, Module& child) override {
    const std::size_t outer = prefix_.size();
    prefix_ = path(name);
    if (on_module) on_module(prefix_, child);
    prefix_ += '.';
    child.visit(*this);
    prefix_.resize(outer);
  }

 private:
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }
  std::string prefix_;
};

thread_local bool training = false;

}  // namespace

void for_each_parameter(Module& m, const std::function<void(const std::string&, Tensor&)>& f) {
  Walk walk;
  walk.on_tensor = f;
  m.visit(walk);
}

void for_each_tap(Module& m, const std::function<void(const std::string&, Tap&)>& f) {
  Walk walk;
  walk.on_tap = f;
  m.visit(walk);
}

std::string path_of(Module& root, const void* place) {
  std::string found;
  Walk walk;
  walk.on_module = [&](const std::string& path, const Module& m) {
    if (&m == place) found = path;
  };
  root.visit(walk);
  return found;
}

Named parameters(Module& m) {
  Named out;
  for_each_parameter(m, [&](const std::string& name, Tensor& p) { out.emplace_back(name, p); });
  return out;
}

Index parameter_count(Module& m) {
  Index count = 0;
  for_each_parameter(m, [&](const std::string&, Tensor& p) { count += p.numel(); });
  return count;
}

void to(Module& m, Device device) {
  for_each_parameter(m, [&](const std::string&, Tensor& p) {
    if (p.device() != device) p = norma::to(p.detach(), device).track(p.is_leaf());
  });
}

void to(Module& m, DType dtype) {
  if (!is_floating(dtype)) fail("to: parameters cannot be {}; f32 or f64", dtype);
  for_each_parameter(m, [&](const std::string&, Tensor& p) {
    if (p.dtype() != dtype) p = cast(p.detach(), dtype).track(p.is_leaf());
  });
}

void track(Module& m, bool on) {
  for_each_parameter(m, [&](const std::string&, Tensor& p) { p.track(on); });
}

void zero_grad(Module& m) {
  for_each_parameter(m, [](const std::string&, Tensor& p) { p.set_grad({}); });
}

void assign(const Named& targets, const Named& values, std::string_view what) {
  std::map<std::string, Tensor> source;
  std::string missing, unexpected, misshapen, twice;
  auto list = [](std::string& names, const std::string& entry) { names += (names.empty() ? "" : ", ") + entry; };
  for (const auto& [name, value] : values)
    if (!source.emplace(name, value).second) list(twice, name);
  std::map<std::string, Shape> known;
  for (const auto& [name, target] : targets) {
    known.emplace(name, target.shape());
    const auto found = source.find(name);
    if (found == source.end()) {
      list(missing, name);
    } else if (found->second.shape() != target.shape()) {
      list(misshapen, fmt::format("{} {} instead of {}", name, found->second.shape(), target.shape()));
    }
  }
  for (const auto& [name, value] : values)
    if (!known.contains(name)) list(unexpected, name);

  std::string wrong;
  auto part = [&](std::string_view title, const std::string& names) {
    if (!names.empty()) wrong += fmt::format("{}{}: {}", wrong.empty() ? "" : "; ", title, names);
  };
  part("missing", missing), part("unexpected", unexpected), part("wrong shape", misshapen), part("given twice", twice);
  if (!wrong.empty()) fail("{}: the values do not fit: {}", what, wrong);
  for (const auto& [name, target] : targets) copy_into(target.detach(), source.at(name).detach());
}

void assign(Module& m, const Named& values) { assign(parameters(m), values, "model"); }

Training::Training(bool on) : old_(training) { training = on; }
Training::~Training() { training = old_; }
bool Training::active() { return training; }

}  // namespace norma::nn
