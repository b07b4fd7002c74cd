// Running the `norma` program as a user does: arguments in, exit code and both outputs out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"

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

inline Finished run_norma(const std::vector<std::string>& args) { return Program(args).wait(); }

/// An empty folder for one test, removed first if it is left from before.
std::filesystem::path fresh_folder(const std::string& name);

/// A data folder that holds a tiny data set in Fashion-MNIST's format: 28x28 images whose brightness tells the class.
std::filesystem::path tiny_data(Index train, Index test);

/// All bytes of a file.
std::string contents(const std::filesystem::path& file);

}  // namespace norma::test
