// norma replay: runs the step again that produced a value that is not finite, from the bundle --anomaly left.
#include "apps/model_flags.h"
#include "backends/cpu/isa.h"
#include "train/anomaly_bundle.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma replay BUNDLE [flags]

Runs the step again at which norma train --anomaly stopped, and prints the first operation that produced a value that is not
finite. BUNDLE is the anomaly-STEP.json of the run folder, or the run folder (its newest bundle). The data set is not needed.
Exit codes: 0 the same report as in training, 1 another one or none, 2 wrong usage.
)";

}  // namespace

int replay_verb(const Args& args) {
  train::Options options;
  Index threads = 0;
  options("threads", threads, "CPU threads; 0: all cores. The result has the same bits whatever their number");
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [words, json] = *given;
  if (words.size() != 1) throw UsageError("replay: name one bundle, as in norma replay runs/a/anomaly-000000012.json");
  check_threads(threads);

  train::Bundle bundle = train::read_bundle(words[0]);
  bundle.config.threads = threads;
  try {
    if (!bundle.config.cpu.empty()) cpu::set_isa(bundle.config.cpu);
  } catch (const Error& e) {  // another machine's
    tell("{}; replayed with this processor's, whose bits may differ\n", e.what());
    bundle.config.cpu.clear();
  }
  as_written([&] {
    check_fields(bundle.config);
    prepare(bundle.config);
  });
  const nlohmann::ordered_json report = train::replay(bundle);
  const bool same = report == bundle.report;
  if (json) {
    print_result({{"reproduced", same}, {"report", report}}, true);
  } else if (!report.is_null()) {
    fmt::print("{}", train::report_text(report));
  }
  if (same) {
    tell("reproduced: the report is that of the training run\n");
    return ok;
  }
  tell("norma: replay: {}; the training run reported:\n{}",
       report.is_null() ? "all values of the step were finite" : "the report differs",
       train::report_text(bundle.report));
  return failure;
}

}  // namespace norma::apps
