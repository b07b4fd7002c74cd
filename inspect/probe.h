// Watching a model: values, gradients and attention statistics at named places, for as long as the Probe lives.
//
//   Probe probe(model);
//   probe.attention("blocks.*.attn.stats");
//   probe.value("blocks.*.out", frobenius());
//   backward(loss(model(x)));
//   for (auto& [place, heads] : probe.take_attention()) ...   // heads.fro[h]
//   for (auto& [place, norms] : probe.take_values()) ...      // norms[call].item()
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/module.h"
#include "nn/tap.h"

namespace norma::inspect {

using Measure = std::function<Tensor(const Tensor&)>;
Measure frobenius();  // 0-d f64: root of the sum of squares
Measure keep_all();   // the tensor itself, detached

/// Statistics of one attention layer, one entry per head: norms are averages over the batch, `row_sum` and `entropy`
/// averages over rows, shares and scores averages over visible entries, extremes those of the batch. `fro_error` is
/// the standard error of `fro` where the linear form estimates it, 0 where it is exact; `sampled` is 1 where that form measured some of
/// the rows alone, so that extremes are bounds and all but `fro` and the sums of rows estimates (docs/linear-attention.md). NaN where there
/// is none: the entropy of rows that do not sum to one, gradients before a backward pass, extremes and shares of a matrix with
/// entries that are NaN. `grad_a` and `grad_s` are of the latest sweep that came by, whatever was differentiated in it; where it differentiates
/// a derivative (create_graph), as of a gradient penalty, they are of the whole gradient, for which A is then formed. Inside checkpoint()
/// each run of the function counts as a call.
struct HeadStats {
  std::vector<double> fro, jacobian, score_mean, score_rms, score_max, row_sum, row_sum_std, min, max, negative_share,
      small_share, entropy, grad_a, grad_s, fro_error, sampled;
};
/// By their names in metrics.jsonl, in the order they have there.
inline constexpr std::pair<const char*, std::vector<double> HeadStats::*> head_stats[] = {
    {"fro", &HeadStats::fro}, {"jacobian", &HeadStats::jacobian}, {"grad_a", &HeadStats::grad_a}, {"grad_s", &HeadStats::grad_s},
    {"score_mean", &HeadStats::score_mean}, {"score_rms", &HeadStats::score_rms}, {"score_max", &HeadStats::score_max},
    {"row_sum", &HeadStats::row_sum}, {"row_sum_std", &HeadStats::row_sum_std}, {"min", &HeadStats::min}, {"max", &HeadStats::max},
    {"negative_share", &HeadStats::negative_share}, {"small_share", &HeadStats::small_share}, {"fro_error", &HeadStats::fro_error},
    {"sampled", &HeadStats::sampled}, {"entropy", &HeadStats::entropy}};

class Probe {
 public:
  /// The model must stay where it is for as long as the Probe lives.
  explicit Probe(nn::Module& model);
  ~Probe();  // stops watching
  Probe(const Probe&) = delete;

  /// Globs: * any run of characters, {a,b} alternatives. A pattern that matches no place throws, listing near names, and so does an empty Measure.
  /// Values leave the bits of a step as they are. A gradient of S, A or an MLP's hidden activations exists only where these are formed, by ops of their
  /// own instead of the fused one, whose results round otherwise.
  Probe& value(std::string_view glob, Measure measure);
  Probe& gradient(std::string_view glob, Measure measure);
  Probe& attention(std::string_view glob);  // places of kind StatsTap

  /// What was recorded since the last call, by place: values and gradients in the order of the names, statistics in the model's. A place that
  /// no call reached is not there: in a block that was skipped, or of a module that names it in visit() and never calls it.
  std::map<std::string, Tensors> take_values();
  std::map<std::string, Tensors> take_gradients();
  /// Throws where calls of a place differ in heads, or were given one tensor of statistics.
  std::vector<std::pair<std::string, HeadStats>> take_attention();
  /// What was formed in full only because this Probe watches it (S and A; statistics need neither) since the last call, empty
  /// where nothing was: "attention matrices formed for watching: 3 in 3 places, 56.3 KiB; each for its call only".
  std::string take_formed();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Those of `names` that the glob names (nn/glob.h). Throws where there are none, listing near names; `who` begins the message.
std::vector<std::string> matching(std::string_view glob, const std::vector<std::string>& names, std::string_view who);

}  // namespace norma::inspect
