// norma report: all that one or more runs recorded, as one page for the browser.
#include "apps/page_runs.h"
#include "apps/verbs.h"
#include "core/atomic_file.h"
#include "train/run_groups.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma report RUN... [flags]

A page of all that the runs recorded: loss and accuracy, the norms of every layer's attention matrix and of its Jacobian and gradient
by head, the norms and updates of the weights, the attention matrices that --record kept, step by step, and what the runs were. Several
runs lie over each other; those that differ in their seed alone (norma compare --help says what that is) as their mean with a band, or
singly. The page is one file, needs no network, and gives its numbers as tables and as CSV. A run that is still going on can be
reported too.
)";

}  // namespace

int report_verb(const Args& args) {
  std::string html;
  train::Options options;
  options("html", html, "where to write the page; left out: report.html, in the run's folder if there is one run");
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [runs, json] = *given;
  if (runs.empty()) throw UsageError("report: name the run folders, as in norma report runs/a runs/b");
  if (options.given("html") && html.empty())
    throw UsageError("--html: is empty; name a file, or leave it out for report.html");

  std::vector<inspect::PageRun> page = read_page_runs(runs);
  const std::vector<train::RunGroup> settings = train::group_runs(page);
  if (html.empty()) html = runs.size() == 1 ? (std::filesystem::path(runs[0]) / "report.html").string() : "report.html";
  const std::string text =
      inspect::make_page(inspect::page_title(page), page, train::differences_by_seed(settings, page));
  write_atomically(html, text);
  nlohmann::ordered_json notes = nlohmann::ordered_json::array();
  for (const inspect::PageRun& run : page) {
    if (!run.note.empty()) notes.push_back(run.note);
    for (const std::string& note : run.recording.notes) notes.push_back(note);
  }
  if (json)
    print_result({{"runs", runs}, {"html", html}, {"bytes", text.size()}, {"notes", notes}}, true);
  else
    fmt::print("page: {}\n", html);
  return ok;
}

}  // namespace norma::apps
