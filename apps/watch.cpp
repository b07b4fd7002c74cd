// norma watch: the page of `norma report`, live while the runs go on.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "apps/live_server.h"
#include "apps/verbs.h"
#include "apps/watched_runs.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma watch RUN... [flags]

The page of norma report, live: open the address that is printed, and the curves grow while the runs train. All of it is here but the
attention matrices that --record keeps: norma report shows those, also while a run goes on. Only this machine is answered (127.0.0.1),
and only with the token in the address; nothing is written, and nothing but these runs can be read. A run that has not made its first step
can be watched too. From another machine: ssh -L PORT:127.0.0.1:PORT, with the same PORT twice. Ctrl-C ends it.
)";

/// Ctrl-C and TERM, held back from all threads that are started while this lives, until wait().
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  void wait() const {
    int which = 0;
    sigwait(&set_, &which);
  }

 private:
  sigset_t set_;
};

/// A run that was just started, as in `norma train ... & norma watch ...`, makes its folder some moments later; and its
/// config.json after that.
void wait_for(const std::vector<std::string>& folders) {
  using namespace std::chrono;
  const auto end = steady_clock::now() + seconds(3);
  for (const std::string& f : folders)
    for (bool told = false; !std::filesystem::exists(std::filesystem::path(f) / "config.json") &&
                            !std::filesystem::is_regular_file(f) && steady_clock::now() < end;
         told = true) {
      if (!told) tell("waiting for {} to begin\n", f);
      std::this_thread::sleep_for(milliseconds(50));
    }
}

}  // namespace

int watch_verb(const Args& args) {
  Index port = 6007;
  train::Options options;
  options("port", port, "where to listen, on 127.0.0.1; 0: any free port");
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [folders, json] = *given;
  if (folders.empty()) throw UsageError("watch: name the run folders, as in norma watch runs/a runs/b");
  if (port != 0 && (port < 1024 || port > 65535))
    throw UsageError(fmt::format("--port: {} must be 0 or in [1024, 65535]", port));

  wait_for(folders);
  WatchedRuns runs(folders);
  const EndSignals signals;
  const LiveServer server(port, {[&](const std::string& nonce) { return runs.page(nonce); },
                                 [&](const std::string& since) { return runs.data(since); }});
  if (json)
    print_result({{"runs", folders}, {"url", server.url()}, {"port", server.port()}}, true);
  else
    fmt::print("page: {}\n", server.url());
  std::fflush(stdout);
  if (!json) tell("Ctrl-C ends it\n");
  signals.wait();
  return ok;
}

}  // namespace norma::apps
