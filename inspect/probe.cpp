// Listeners that record, and the reduction of attention statistics to one row per head.
#include "inspect/probe.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "core/host_limits.h"
#include "core/suggest.h"
#include "nn/glob.h"

namespace norma::inspect {

Measure frobenius() {
  return [](const Tensor& x) { return full({}, std::sqrt(sum_of_squares(x)), {DType::f64, x.device()}); };
}

Measure keep_all() {
  return [](const Tensor& x) { return x.detach(); };
}

namespace {

/// "blocks.3.attn.stats" to "blocks.*.attn.stats".
std::string without_numbers(const std::string& name) {
  std::string out;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string piece = name.substr(begin, end - begin);
    const bool number = !piece.empty() && piece.find_first_not_of("0123456789") == std::string::npos;
    out += (out.empty() ? "" : ".") + (number ? "*" : piece);
    begin = end + 1;
  }
  return out;
}

[[noreturn]] void no_place(std::string_view glob, const std::vector<std::string>& names, std::string_view who) {
  std::vector<std::string> near;
  for (const std::string& name : names)
    if (std::string general = without_numbers(name); std::find(near.begin(), near.end(), general) == near.end())
      near.push_back(std::move(general));
  if (near.empty()) fail("{}: nothing matches \"{}\": the model has no such places", who, glob);
  std::stable_sort(near.begin(), near.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(glob, a) < edit_distance(glob, b);
  });
  near.resize(std::min<std::size_t>(near.size(), 3));
  std::string list;
  for (const std::string& name : near) list += (list.empty() ? "" : ", ") + name;
  fail("{}: nothing matches \"{}\"; near: {}", who, glob, list);
}

/// Statistics of one call of a layer: the tensor is kept, because the backward pass completes it.
struct Sample {
  Tensor stats;           // f64 [B, H, attention_stats]
  Index rows;             // of A
  std::uint32_t version;  // of stats after the forward pass
  bool has_gradient() const { return stats.storage()->version() != version; }
};

/// Averages over batches and calls, per head; of the gradients over those calls that a backward pass has reached.
HeadStats reduce(const std::vector<Sample>& samples) {
  const Index heads = samples.front().stats.size(1);
  HeadStats out;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [name, field] : head_stats) (out.*field).assign(static_cast<std::size_t>(heads), nan);
  std::vector<std::vector<double>> values;
  for (const Sample& s : samples) values.push_back(s.stats.values());

  for (Index h = 0; h < heads; ++h) {
    // Adds what `f` makes of each (batch, head)'s statistics, in one order.
    auto total = [&](auto&& f, bool with_gradient = false) {
      double sum = 0;
      for (std::size_t i = 0; i < samples.size(); ++i) {
        if (with_gradient && !samples[i].has_gradient()) continue;
        for (Index b = 0; b < samples[i].stats.size(0); ++b) {
          const double* at = values[i].data() + (b * heads + h) * attention_stats;
          sum += f([at](AttentionStat which) { return at[static_cast<int>(which)]; },
                   static_cast<double>(samples[i].rows));
        }
      }
      return sum;
    };
    auto sum = [&](AttentionStat which) { return total([=](auto&& get, double) { return get(which); }); };
    auto mean_root = [&](AttentionStat which, bool with_gradient = false) {
      return total([=](auto&& get, double) { return std::sqrt(get(which)); }, with_gradient) /
             total([](auto&&, double) { return 1.0; }, with_gradient);
    };
    auto extreme = [&](AttentionStat which, auto&& better) {
      double found = nan;
      total([&](auto&& get, double) {
        return found = std::isnan(found) || better(get(which), found) ? get(which) : found;
      });
      return found;
    };
    const double rows = total([](auto&&, double r) { return r; });
    const double entries = sum(AttentionStat::entries);

    const auto at = static_cast<std::size_t>(h);
    out.fro[at] = mean_root(AttentionStat::fro2);
    out.jacobian[at] = mean_root(AttentionStat::jac2);
    out.score_mean[at] = sum(AttentionStat::score_sum) / entries;
    out.score_rms[at] = std::sqrt(sum(AttentionStat::score_sum2) / entries);
    out.score_max[at] = extreme(AttentionStat::score_max, std::greater<>());
    out.row_sum[at] = sum(AttentionStat::row_sum) / rows;
    out.row_sum_std[at] =
        std::sqrt(std::max(sum(AttentionStat::row_sum2) / rows - out.row_sum[at] * out.row_sum[at], 0.0));  // NaN stays
    out.min[at] = extreme(AttentionStat::min, std::less<>());
    out.max[at] = extreme(AttentionStat::max, std::greater<>());
    out.negative_share[at] = sum(AttentionStat::negative) / entries;
    out.small_share[at] = sum(AttentionStat::small) / entries;
    out.entropy[at] = sum(AttentionStat::entropy) / rows;
    // The kernel counts and compares past what is no number; of a matrix that has such entries it says nothing.
    if (std::isnan(out.fro[at]))
      for (auto* field : {&out.min, &out.max, &out.negative_share, &out.small_share, &out.entropy}) (*field)[at] = nan;
    if (std::isnan(out.score_mean[at])) out.score_max[at] = nan;
    out.grad_a[at] = mean_root(AttentionStat::grad_a2, true);
    out.grad_s[at] = mean_root(AttentionStat::grad_s2, true);
    // The error of a root is that of its square over twice the root; those of a mean add up as squares.
    out.fro_error[at] = std::sqrt(total([](auto&& get, double) {
                          const double error = get(AttentionStat::fro2_error);
                          return error == 0 ? 0 : error * error / (4 * get(AttentionStat::fro2));
                        })) /
                        total([](auto&&, double) { return 1.0; });
    // Of a known norm the error of a sample is -0: backends/cpu/attention_sampled.h.
    out.sampled[at] = total([](auto&& get, double) {
                        const double error = get(AttentionStat::fro2_error);
                        return error != 0 || std::signbit(error) ? 1.0 : 0.0;
                      }) > 0;
  }
  return out;
}

/// Throws where calls of one place do not belong together. `seen`: versions by storage, of all places so far.
void check(const std::string& place, const std::vector<Sample>& samples,
           std::map<const Storage*, std::uint32_t>& seen) {
  const Index heads = samples.front().stats.size(1);
  for (const Sample& s : samples) {
    if (s.stats.size(1) != heads)
      fail("probe: {} was called with {} heads and with {}; a StatsTap is of one layer", place, heads, s.stats.size(1));
    // A call that two patterns named is there twice, as it was.
    if (seen.emplace(s.stats.storage().get(), s.version).first->second != s.version)
      fail("probe: {} was given one tensor of statistics twice; make options.stats anew for each call", place);
  }
}

/// What the listeners write into. Graphs may outlive a Probe: their hooks then find nobody and do nothing.
struct Records {
  struct Formed {
    Index calls = 0, bytes = 0;
  };
  std::map<std::string, Formed> formed;  // by place of kind MatrixTap
  std::map<std::string, Tensors> values, gradients;
  std::map<std::string, std::vector<Sample>> attention;
};

}  // namespace

std::vector<std::string> matching(std::string_view glob, const std::vector<std::string>& names, std::string_view who) {
  std::vector<std::string> chosen;
  std::copy_if(names.begin(), names.end(), std::back_inserter(chosen),
               [&](const std::string& name) { return nn::glob_match(glob, name); });
  if (chosen.empty()) no_place(glob, names, who);
  return chosen;
}

struct Probe::Impl {
  struct Place {
    std::string name;
    nn::Tap* tap;
    const nn::StatsTap* stats;  // where the place is of that kind
  };
  std::vector<Place> places;  // in model order
  std::vector<std::pair<nn::Tap*, int>> listening;
  std::vector<const nn::Tap*> counted;  // places of kind MatrixTap that are watched
  std::shared_ptr<Records> records = std::make_shared<Records>();

  void count_formed(const Place& place) {
    if (!dynamic_cast<const nn::MatrixTap*>(place.tap) ||
        std::find(counted.begin(), counted.end(), place.tap) != counted.end())
      return;
    counted.push_back(place.tap);
    listening.emplace_back(
        place.tap, place.tap->on_value([weak = std::weak_ptr<Records>(records), name = place.name](const Tensor& x) {
          const auto alive = weak.lock();
          if (!alive) return;
          Records::Formed& formed = alive->formed[name];
          ++formed.calls, formed.bytes += x.numel() * static_cast<Index>(size_of(x.dtype()));
        }));
  }

  /// f(place) at every place of the kind that the pattern names.
  template <class F>
  void at(std::string_view glob, bool stats, F f) {
    std::vector<std::string> names;
    for (const Place& place : places)
      if ((place.stats != nullptr) == stats) names.push_back(place.name);
    const std::vector<std::string> chosen = matching(glob, names, "probe");
    for (const Place& place : places)
      if (std::find(chosen.begin(), chosen.end(), place.name) != chosen.end()) {
        listening.emplace_back(place.tap, f(place));
        count_formed(place);
      }
  }
};

Probe::Probe(nn::Module& model) : impl_(std::make_unique<Impl>()) {
  nn::for_each_tap(model, [this](const std::string& name, nn::Tap& tap) {
    impl_->places.push_back({name, &tap, dynamic_cast<const nn::StatsTap*>(&tap)});
  });
}

Probe::~Probe() {
  for (const auto& [tap, id] : impl_->listening) tap->remove(id);
}

namespace {

using Map = std::map<std::string, Tensors>;

void check(const Measure& measure, std::string_view glob) {
  if (!measure) fail("probe: the measure of \"{}\" is empty; give one, such as frobenius()", glob);
}

nn::Tap::Listener recorder(const std::shared_ptr<Records>& records, Map Records::*map, const std::string& name,
                           const Measure& measure) {
  return [weak = std::weak_ptr<Records>(records), map, name, measure](const Tensor& x) {
    const auto alive = weak.lock();
    if (!alive) return;
    NoGrad watching;
    ((*alive).*map)[name].push_back(measure(x));
  };
}

}  // namespace

Probe& Probe::value(std::string_view glob, Measure measure) {
  check(measure, glob);
  impl_->at(glob, false, [&](const Impl::Place& place) {
    return place.tap->on_value(recorder(impl_->records, &Records::values, place.name, measure));
  });
  return *this;
}

Probe& Probe::gradient(std::string_view glob, Measure measure) {
  check(measure, glob);
  impl_->at(glob, false, [&](const Impl::Place& place) {
    return place.tap->on_gradient(recorder(impl_->records, &Records::gradients, place.name, measure));
  });
  return *this;
}

Probe& Probe::attention(std::string_view glob) {
  impl_->at(glob, true, [&](const Impl::Place& place) {
    return place.tap->on_value(
        [records = std::weak_ptr<Records>(impl_->records), name = place.name, tap = place.stats](const Tensor& stats) {
          if (const auto alive = records.lock())
            alive->attention[name].push_back({stats, tap->rows(), stats.storage()->version()});
        });
  });
  return *this;
}

std::map<std::string, Tensors> Probe::take_values() { return std::exchange(impl_->records->values, {}); }
std::map<std::string, Tensors> Probe::take_gradients() { return std::exchange(impl_->records->gradients, {}); }

std::string Probe::take_formed() {
  const auto formed = std::exchange(impl_->records->formed, {});
  if (formed.empty()) return {};
  Index calls = 0, bytes = 0;
  for (const auto& [place, f] : formed) calls += f.calls, bytes += f.bytes;
  return fmt::format("attention matrices formed for watching: {} in {} place{}, {}; each for its call only", calls,
                     formed.size(), formed.size() == 1 ? "" : "s", human_bytes(static_cast<double>(bytes)));
}

std::vector<std::pair<std::string, HeadStats>> Probe::take_attention() {
  const auto samples = std::exchange(impl_->records->attention, {});
  std::vector<std::pair<std::string, HeadStats>> out;
  std::map<const Storage*, std::uint32_t> seen;
  for (const Impl::Place& place : impl_->places)
    if (const auto found = samples.find(place.name); found != samples.end()) {
      check(place.name, found->second, seen);
      out.emplace_back(place.name, reduce(found->second));
    }
  return out;
}

}  // namespace norma::inspect
