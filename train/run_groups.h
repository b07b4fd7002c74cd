// Runs of one setting, which differ in their seed alone: what can be said of them together, with its spread.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "inspect/page.h"
#include "train/json.h"

namespace norma::train {

struct RunGroup {
  std::string name;                  // the attention function, and what else is not as in every group: "softmax, epochs 2"
  std::vector<std::string> parts;    // of its name: "softmax", "epochs 2"
  Json differs;                      // the fields in which groups differ, as this group has them
  std::vector<std::size_t> runs;     // their places among the runs that were given
  std::vector<std::size_t> counted;  // those of which means are made: finished with finite numbers, one a seed
};

/// The seed of a run; the default where its config.json names none.
Index seed_of(const inspect::PageRun& run);

/// The fields of config.json that make no other setting: the seed, where a run lies, what is written down, and what changes results by their rounding at most.
std::span<const char* const> fields_of_no_setting();

/// Puts runs together whose configurations are equal but for these fields, and whose images are the same: a run that does not know them (of an
/// earlier version, or without a checkpoint yet) is of the first setting that is the same otherwise. A field that is absent counts as its default
/// of today, and a text of an attention function as any other text of the same function. Groups stand in the order of their first runs. Sets
/// `setting` of every run to the name of its group, and `left_out` to why it is in no mean: "diverged", "interrupted", "not ended", "not finite",
/// or that its seed has been there. Groups of other images are named by `data_dir`, where each folder has images of its own, else by their hashes.
std::vector<RunGroup> group_runs(std::span<inspect::PageRun> runs);

/// The place of the setting that all others are compared with: the first with two or more counted runs; where there is none, the first.
std::size_t reference_of(std::span<const RunGroup> groups);

/// Names of settings, where one of them is long without what most of them share. That is told once: `shared`.
struct ShortNames {
  std::vector<std::string> names;
  std::string shared;  // "clip 1, lr 0.002"; empty: the names are whole
};
ShortNames short_names(std::span<const RunGroup> groups);

struct Spread {
  double mean, deviation;  // sample standard deviation, with n - 1; NaN of less than two values, and the mean of none
};
Spread spread_of(std::span<const double> values);

/// How many standard errors a 95 % interval reaches to each side of a mean: Student's t. Degrees of freedom, 1 or more: one less than the
/// values.
double factor_95(std::size_t degrees);

/// How a setting differs from another seed by seed. Runs of one seed see the same batches, and begin with the same weights, where only the attention
/// function differs: what seeds do to both is not in the differences.
struct Paired {
  std::size_t seeds = 0;  // that both have
  Spread difference;      // of `values` of the second less those of the first; equal ones deviate by 0, not by their rounding
  double error;           // the mean's standard error: deviation / sqrt(seeds)
  double low, high;       // 95 % confidence interval of the mean; NaN where all differences are equal, and not 0: they tell of no scatter
};
/// `values`: one of each run. NaN where fewer than two seeds are in both.
Paired paired(const RunGroup& first, const RunGroup& second, std::span<const inspect::PageRun> runs, std::span<const double> values);

/// A line for each setting but the one of reference_of: how far its test accuracy is from that one's, seed by seed. None where no setting has
/// two runs. `names`: what the settings are called, where not by their own names.
std::vector<std::string> differences_by_seed(std::span<const RunGroup> groups, std::span<const inspect::PageRun> runs,
                                             const std::vector<std::string>& names = {});

}  // namespace norma::train
