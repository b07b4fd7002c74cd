// Running the `norma` program as a user does: arguments in, exit code and both outputs out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/random.h"
#include "tests/folders.h"

namespace norma::test {

struct Finished {
  int code = 0;  // exit code, or 128 + signal
  std::string out, err;
};

/// A process that is running `norma` (the path comes from the build).
class Program {
 public:
  /// `largest_file`: bytes after which writing to a file fails, as on a full disk; 0: no such limit.
  explicit Program(const std::vector<std::string>& args, const std::string& working_folder = ".",
                   std::uint64_t largest_file = 0);
  ~Program();  // kills what still runs
  Program(const Program&) = delete;
  void signal(int number);
  /// What it has written on stdout so far.
  std::string out() const;
  Finished wait();

 private:
  int pid_ = -1;
  std::filesystem::path out_, err_;
};

/// Arguments and some more.
std::vector<std::string> with(std::vector<std::string> args, const std::vector<std::string>& more);

/// The arguments of `norma train` for one epoch of a tiny model.
std::vector<std::string> tiny_run(const std::filesystem::path& data, const std::filesystem::path& out);

/// The flags of a model with something of everything, two blocks of two heads, on these images in batches of 16.
std::vector<std::string> small_model(const std::filesystem::path& data);
/// The arguments of `norma train` for such a one, and some more.
std::vector<std::string> small_run(const std::filesystem::path& data, const std::filesystem::path& out, const std::vector<std::string>& more = {});

inline Finished run_norma(const std::vector<std::string>& args) { return Program(args).wait(); }

/// What `norma ARGS` writes on stderr (`output` 1: on stdout) where that is a terminal of this kind. `until`: as soon as that was written, Ctrl-C ends
/// it. `columns`: of the terminal; 0: it does not tell.
std::string on_terminal(const std::vector<std::string>& args, const std::string& term, const std::string& until = "", unsigned short columns = 0, int output = 2);
/// The characters of the longest line.
std::size_t widest_line(const std::string& text);

/// Arguments that are refused, with the exit code and what stderr then says.
struct Wrong {
  std::vector<std::string> args;
  int code;
  std::string text;
};
/// Checks that each is refused so, in these words, and that nothing comes on stdout. `verb` stands before its arguments.
void check_refused(const std::vector<Wrong>& table, const std::vector<std::string>& verb = {});

/// Runs `args` (which ends with --resume) again and again, each time killed by SIGKILL at a random moment, until it ends by itself. The moments
/// are shares of `whole`, the seconds that a run left alone took, and come later from attempt to attempt; if the first attempt is not killed in time,
/// `run`, its folder, is emptied and shorter moments are drawn. Returns the number of kills, at least 1.
int kill_until_finished(const std::vector<std::string>& args, const std::filesystem::path& run, double whole, RandomStream moments);

}  // namespace norma::test
