// One walk over a module and its children, and what follows from it.
#include "nn/module.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_set>

#include "nn/glob.h"
#include "nn/tap.h"

namespace norma::nn {
namespace {

/// Walks a module and its children, with the dotted path of where it is.
class Walk : public Visitor {
 public:
  std::function<void(const std::string&, Tensor&)> on_parameter, on_buffer;
  std::function<void(const std::string&, Tap&)> on_tap;
  std::function<void(const std::string&, const Module&)> on_module;

 protected:
  void tensor(std::string_view name, Tensor& parameter) override {
    if (on_parameter) on_parameter(path(name), parameter);
  }
  void fixed(std::string_view name, Tensor& buffer) override {
    if (on_buffer) on_buffer(path(name), buffer);
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
  const std::string& path(std::string_view name) { return path_.assign(prefix_).append(name); }
  std::string prefix_, path_;
};

thread_local bool training = false;

using Names = std::unordered_set<std::string>;

/// Throws where it is there already.
void add(Names& names, const std::string& name, std::string_view what) {
  if (!names.insert(name).second)
    fail("module: two {} are named {}; visit() must give each a name of its own", what, name);
}

/// f(name, tensor, whether it is a buffer)
template <class F>
void walk_tensors(Module& m, F f) {
  Names seen;
  const auto each = [&](const std::string& name, Tensor& t, bool buffer) {
    add(seen, name, "parameters");
    if (buffer && t.tracked())
      fail(
          "module: buffer {} is tracked; make it by zeros(shape, init.place()) or init.fixed(), and write it with "
          "copy_into() under NoGrad",
          name);
    f(name, t, buffer);
  };
  Walk walk;
  walk.on_parameter = [&](const std::string& name, Tensor& t) { each(name, t, false); };
  walk.on_buffer = [&](const std::string& name, Tensor& t) { each(name, t, true); };
  m.visit(walk);
}

}  // namespace

void for_each_parameter(Module& m, const std::function<void(const std::string&, Tensor&)>& f) {
  walk_tensors(m, [&](const std::string& name, Tensor& t, bool buffer) {
    if (!buffer) f(name, t);
  });
}

void for_each_tap(Module& m, const std::function<void(const std::string&, Tap&)>& f) {
  Names seen;
  Walk walk;
  walk.on_tap = [&](const std::string& name, Tap& tap) {
    add(seen, name, "taps");
    f(name, tap);
  };
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

std::string Inside::ending() noexcept {
  const Inside* const here = std::exchange(innermost_, nullptr);  // visit() may fail too
  std::string found;
  try {
    for (const Inside* root = here; root; root = root->outer_)
      if (const std::string path = path_of(const_cast<Module&>(root->module_), &here->module_); !path.empty())
        found = " (in " + path + ")";
  } catch (...) {  // the error that is to be told counts more
  }
  innermost_ = here;
  return found;
}

Named parameters(Module& m) {
  Named out;
  for_each_parameter(m, [&](const std::string& name, Tensor& t) { out.emplace_back(name, t); });
  return out;
}

Named state(Module& m) {
  Named out;
  std::unordered_set<const void*> seen;
  walk_tensors(m, [&](const std::string& name, Tensor& t, bool) {
    if (seen.insert(t.impl().get()).second) out.emplace_back(name, t);
  });
  return out;
}

Named further_names(Module& m) {
  Named out;
  std::unordered_set<const void*> seen;
  walk_tensors(m, [&](const std::string& name, Tensor& t, bool) {
    if (!seen.insert(t.impl().get()).second) out.emplace_back(name, t);
  });
  return out;
}

Index parameter_count(Module& m) {
  Index count = 0;
  std::set<const void*> seen;
  for_each_parameter(m, [&](const std::string&, Tensor& p) {
    if (seen.insert(p.impl().get()).second) count += p.numel();
  });
  return count;
}

namespace {

/// Replaces each parameter and buffer by moved(it), one that stands at several places by the same tensor everywhere;
/// all, or none where one cannot be moved.
template <class Moved>
void replace(Module& m, Moved moved) {
  std::map<std::shared_ptr<Tensor::Impl>, Tensor> done;
  walk_tensors(m, [&](const std::string&, Tensor& t, bool) {
    Tensor& now = done[t.impl()];
    if (!now) now = moved(t);
  });
  walk_tensors(m, [&](const std::string&, Tensor& t, bool) {
    if (const auto now = done.find(t.impl()); now != done.end()) t = now->second;
  });
}

}  // namespace

void to(Module& m, Device device) {
  replace(m,
          [&](const Tensor& p) { return p.device() == device ? p : norma::to(p.detach(), device).track(p.tracked()); });
}

std::string_view advice_on(DType refused) {
  return refused == DType::bf16 ? "; bf16 is for activations: cast(x, DType::bf16) after the embedding" : "";
}

void to(Module& m, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f64)
    fail("to: parameters cannot be {}; f32 or f64{}", dtype, advice_on(dtype));
  replace(m, [&](const Tensor& t) {
    return t.dtype() == dtype || !is_floating(t.dtype()) ? t : cast(t.detach(), dtype).track(t.tracked());
  });
}

RoundedParameters::RoundedParameters(Module& m, std::optional<DType> activations, Device device) {
  if (activations != DType::bf16 || !backend(device).rounds_weights()) return;
  Tensors all;
  for_each_parameter(m, [&](const std::string&, Tensor& p) { all.push_back(p); });
  weights_.emplace(all, *activations);
}

void track(Module& m, bool on) {
  for_each_parameter(m, [&](const std::string&, Tensor& p) { p.track(on); });
}

void zero_grad(Module& m) {
  for_each_parameter(m, [](const std::string&, Tensor& p) { p.set_grad({}); });
}

namespace {

/// Some of the names that do not fit, and how many there are.
class Misfits {
 public:
  void add(const std::string& name) {
    if (++count_ <= shown) text_ += (count_ > 1 ? ", " : "") + name;
  }
  /// Adds "title: a, b, c and 28 more" to a message.
  void tell(std::string_view title, std::string& message) const {
    if (count_ == 0) return;
    message += fmt::format("{}{}: {}", message.empty() ? "" : "; ", title, text_);
    if (count_ > shown) message += fmt::format(" and {} more", count_ - shown);
  }

 private:
  static constexpr std::size_t shown = 3;
  std::string text_;
  std::size_t count_ = 0;
};

/// Whether both would give the target the same bits.
bool same_bits(const Tensor& target, const Tensor& a, const Tensor& b) {
  const auto bits = [&](const Tensor& x) {
    const Tensor there = norma::empty(target.shape(), place_of(target));
    copy_into(there, x.detach());
    std::vector<std::byte> out(there.storage()->bytes());
    backend(target.device()).download(out.data(), there.view().data, out.size());
    return out;
  };
  return a.impl() == b.impl() || target.numel() == 0 || bits(a) == bits(b);
}

/// The values by name; throws where they do not fit the targets.
std::map<std::string, Tensor> fitting(const Named& targets, const Named& values, std::string_view what) {
  std::map<std::string, Tensor> source;
  Misfits missing, unexpected, misshapen, twice, empty, differing;
  for (const auto& [name, value] : values)
    if (!source.emplace(name, value).second) twice.add(name);
  std::set<std::string> known;
  std::map<const void*, std::string>
      given;  // by tensor the first of its names that has a value, or is told to have none
  for (const auto& [name, target] : targets) {
    known.insert(name);
    if (source.contains(name)) given.emplace(target.impl().get(), name);
  }
  for (const auto& [name, target] : targets) {
    const auto found = source.find(name);
    if (found == source.end()) {
      if (given.emplace(target.impl().get(), name).second) missing.add(name);
    } else if (!target || !found->second) {
      empty.add(name);
    } else if (found->second.shape() != target.shape()) {
      misshapen.add(fmt::format("{} {} instead of {}", name, found->second.shape(), target.shape()));
    } else if (const std::string& first = given.at(target.impl().get()); first != name) {
      const Tensor& other = source.at(first);
      if (other && other.shape() == target.shape() && !same_bits(target, other, found->second))
        differing.add(fmt::format("{} and {}", first, name));
    }
  }
  for (const auto& [name, value] : values)
    if (!known.contains(name)) unexpected.add(name);

  std::string wrong;
  missing.tell("missing", wrong), unexpected.tell("unexpected", wrong), misshapen.tell("wrong shape", wrong),
      twice.tell("given twice", wrong), empty.tell("an empty Tensor handle", wrong),
      differing.tell("one tensor in the model, but different values (nn::assign() can ignore one by name)", wrong);
  if (!wrong.empty()) fail("{}: the values do not fit: {}", what, wrong);
  return source;
}

}  // namespace

void assign(const Named& targets, const Named& values, std::string_view what) {
  std::map<std::string, Tensor> source = fitting(targets, values, what);
  std::set<const Storage*> written;
  for (const auto& [name, target] : targets) written.insert(target.storage().get());
  for (auto& [name, value] : source) {
    value = value.detach();
    if (written.contains(value.storage().get()))
      value = clone(value);  // read before it is written: layers may change places
  }
  for (const auto& [name, target] : targets)
    if (const auto found = source.find(name); found != source.end()) copy_into(target.detach(), found->second);
}

void assign(Module& m, const Named& values, const std::vector<std::string>& ignored) {
  const auto passed_over = [&](const std::string& name) {
    return std::any_of(ignored.begin(), ignored.end(), [&](const std::string& g) { return glob_match(g, name); });
  };
  Named targets, wanted;
  walk_tensors(m, [&](const std::string& name, Tensor& t, bool) {
    if (!passed_over(name)) targets.emplace_back(name, t);
  });
  for (const auto& value : values)
    if (!passed_over(value.first)) wanted.push_back(value);
  assign(targets, wanted, "model");
}

Training::Training(bool on) : old_(training) { training = on; }
Training::~Training() { training = old_; }
bool Training::active() { return training; }

}  // namespace norma::nn
