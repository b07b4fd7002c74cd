// The `norma` program: finds the verb, and turns errors into one line on stderr and an exit code.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <new>

#include "apps/verbs.h"
#include "backends/register_all.h"
#include "core/atomic_file.h"
#include "core/suggest.h"
#include "core/terminal.h"

namespace norma::apps {

extern const char commit[];  // that this is built from: cmake/commit.cmake

namespace {

struct Verb {
  const char* name;
  int (*run)(const Args&);
  const char* help;
};
constexpr Verb verbs[] = {
    {"train", train_verb, "train a Vision Transformer with softmax or another attention function"},
    {"eval", eval_verb, "accuracy of a run on the test images"},
    {"compare", compare_verb, "table and page of one or more runs side by side"},
    {"inspect", inspect_verb, "the attention matrix of every head on one image, as a table and a page"},
    {"report", report_verb, "one page of all that one or more runs recorded"},
    {"watch", watch_verb, "the same page without recorded matrices, live in the browser while the runs go on"},
    {"twin", twin_verb, "two attention functions in lock-step, and where they part"},
    {"info", info_verb, "parameters, FLOPs and memory of a model"},
    {"data", data_verb, "what data sets are installed, and how to get them"},
    {"replay", replay_verb, "run the step again at which training with --anomaly stopped"},
    {"gradcheck", gradcheck_verb, "check the derivatives of an op, or of a small model"},
    {"theory", theory_verb, "norms of attention matrices, random or of a run, beside what theory says of them"},
    {"bench", bench_verb, "how fast this processor multiplies matrices, beside OpenBLAS and its own peak"},
};

/// Where it is for no terminal, as wide as pages are.
std::size_t width_of_help() { return std::max<std::size_t>(60, terminal_columns(STDOUT_FILENO, 100)); }

void print_help() {
  std::string text = "norma: train transformers, and see inside their attention\n\nusage: norma VERB [arguments]\n\n";
  for (const Verb& v : verbs) text += fmt::format("  {:<10} {}\n", v.name, v.help);
  text +=
      "\n`norma VERB --help` tells more, `norma help attention` what --attention takes, `norma --version` which one "
      "this is. A first try:\n\n";
  // Commands stay whole, for whoever copies them.
  fmt::print(
      "{}"
      "  norma train vit --data fashion-mnist --width 64 --depth 3 --heads 2 --init-std 0 --epochs 1 --out runs/a\n"
      "  norma train vit --data fashion-mnist --width 64 --depth 3 --heads 2 --init-std 0 --epochs 1 --out runs/b "
      "--attention \"x^3/sqrt(N)\"\n"
      "  norma compare runs/a runs/b\n",
      filled(text, width_of_help()));
}

/// Where the caller has closed stdin, stdout or stderr, a file opened later would get its number, and what is printed
/// would go into that file.
void open_standard_streams() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) < 0) return;
}

/// Results that could not be written are a failure: a full disk, say.
void flush_results() {
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    fail("stdout: cannot be written ({})", error_text(errno ? errno : EIO));
}

bool asks_for_help(const std::string& word) { return word == "--help" || word == "-h" || word == "help"; }

int run(const Args& args) {
  if (args.empty() || asks_for_help(args[0])) {
    if (args.size() > 1 && args[1] == "attention") return help_attention(width_of_help());
    const std::vector<std::string> topics = {"attention"};  // what there is help on beside the verbs
    if (args.size() > 1 && !suggest(args[1], topics).empty())
      throw UsageError(fmt::format("unknown topic \"{}\"{}; see norma --help", args[1], did_you_mean(args[1], topics)));
    if (args.size() > 1 && !asks_for_help(args[1])) return run({args[1], "--help"});
    print_help();
    return args.empty() ? usage_error : ok;
  }
  if (args[0] == "--version" || args[0] == "version") {
    fmt::print("norma {} ({})\n", NORMA_VERSION, commit);
    return ok;
  }
  std::vector<std::string> names;
  for (const Verb& v : verbs) {
    if (args[0] == v.name) return v.run(Args(args.begin() + 1, args.end()));
    names.push_back(v.name);
  }
  throw UsageError(fmt::format("unknown verb \"{}\"{}; see norma --help", args[0], did_you_mean(args[0], names)));
}

/// What is no number is "-", as in tables; null in JSON.
std::string shown(const std::string& name, double v) {
  if (!std::isfinite(v)) return "-";
  if (name.ends_with("accuracy")) return fmt::format("{:.2f} %", 100 * v);
  return name == "seconds" ? fmt::format("{:.1f}", v) : fmt::format("{:.6g}", v);
}

}  // namespace

std::optional<Args> read_words(train::Options& options, const Args& args, std::string_view usage) {
  Args words = options.read_flags(args);
  if (options.given("help") != "true") return words;
  fmt::print("{}{}", filled(usage, width_of_help()), options.help());
  return std::nullopt;
}

std::optional<Given> read_given(train::Options& options, const Args& args, std::string_view usage,
                                const char* about_log_format) {
  std::string log_format = "text";
  bool help = false;
  options("log_format", log_format, about_log_format);
  options("help", help, "print this, and stop");
  std::optional<Args> words = read_words(options, args, usage);
  if (!words) return std::nullopt;
  options.apply();
  return Given{std::move(*words), wants_json(log_format)};
}

bool wants_json(const std::string& log_format) {
  if (log_format != "text" && log_format != "json")
    throw UsageError(fmt::format("--log-format: \"{}\" is unknown; there are text, json", log_format));
  return log_format == "json";
}

void print_result(const nlohmann::ordered_json& result, bool json) {
  if (json) {
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  for (auto& [key, value] : result.items())
    fmt::print("{:<22} {}\n", key,
               value.is_string()         ? value.get<std::string>()
               : value.is_number_float() ? shown(key, value.get<double>())
                                         : value.dump());
}

}  // namespace norma::apps

int main(int argc, char** argv) {
  using namespace norma::apps;
  try {
    open_standard_streams();
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow (ulimit -f) is an error of its write, as a full disk is
    norma::register_backends();
    const int code = norma::apps::run(Args(argv + 1, argv + argc));
    flush_results();
    return code;
  } catch (const UsageError& e) {
    tell("norma: {}\n", e.what());
    return usage_error;
  } catch (const norma::Error& e) {
    tell("norma: {}\n", e.what());
  } catch (const std::bad_alloc&) {
    tell("norma: out of memory; a smaller --batch, --image, --width or --depth, or a larger --patch, needs less\n");
  } catch (const std::exception& e) {
    tell("norma: {}\n", e.what());
  }
  return failure;
}
