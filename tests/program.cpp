#include "tests/program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace norma::test {
namespace fs = std::filesystem;

Program::Program(const std::vector<std::string>& args, const std::string& working_folder, std::uint64_t largest_file) {
  static std::atomic<int> count{0};
  const fs::path base = fs::current_path() / fmt::format("program-{}-{}", ::getpid(), count++);
  out_ = base.string() + ".out";
  err_ = base.string() + ".err";
  std::vector<std::string> all{NORMA_PROGRAM};
  all.insert(all.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& a : all) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    const int in = ::open("/dev/null", O_RDONLY);
    ::dup2(in, 0), ::dup2(out, 1), ::dup2(err, 2);
    if (largest_file) {
      const rlimit limit{largest_file, largest_file};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (::chdir(working_folder.c_str()) != 0) ::_exit(126);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
}

Program::~Program() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  std::error_code error;
  fs::remove(out_, error);
  fs::remove(err_, error);
}

void Program::signal(int number) { ::kill(pid_, number); }

std::string Program::out() const { return contents(out_); }

Finished Program::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(out_), contents(err_)};
}

std::vector<std::string> with(std::vector<std::string> args, const std::vector<std::string>& more) {
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::string on_terminal(const std::vector<std::string>& args, const std::string& term, const std::string& until, unsigned short columns, int output) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(master >= 0);
  REQUIRE(::grantpt(master) == 0);
  REQUIRE(::unlockpt(master) == 0);
  const std::string name = ::ptsname(master);
  const winsize size{24, columns, 0, 0};
  REQUIRE(::ioctl(master, TIOCSWINSZ, &size) == 0);
  const int held = ::open(name.c_str(), O_RDWR | O_NOCTTY);  // so that reading goes on to the end
  std::string quoted;
  for (const std::string& arg : args) quoted += " '" + arg + "'";
  std::string out;
  std::atomic<bool> ended{false};
  std::thread reader([&] {
    char buffer[4096];
    for (;;) {
      const bool last = ended;
      pollfd wait{master, POLLIN, 0};
      if (::poll(&wait, 1, 50) > 0) {
        const ssize_t n = ::read(master, buffer, sizeof buffer);
        if (n > 0) out.append(buffer, static_cast<std::size_t>(n));
        if (!until.empty() && out.find(until) != std::string::npos) ::kill(std::stoi(contents("terminal.pid")), SIGINT);
      } else if (last) {
        return;
      }
    }
  });
  const int status = std::system(("echo $$ >terminal.pid; TERM='" + term + "' exec '" NORMA_PROGRAM "'" + quoted + (output == 1 ? " 2>terminal.out >" : " >terminal.out 2>") + name).c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ended = true;
  reader.join();
  ::close(held);
  ::close(master);
  CHECK(code == (until.empty() ? 0 : 130));
  for (std::size_t at = 0; (at = out.find("\r\n", at)) != std::string::npos;) out.erase(at, 1);  // as the terminal turns \n
  return out;
}

std::size_t widest_line(const std::string& text) {
  std::size_t widest = 0, width = 0;
  for (const char c : text) {
    width = c == '\n' ? 0 : width + ((c & 0xc0) != 0x80);
    widest = std::max(widest, width);
  }
  return widest;
}

int kill_until_finished(const std::vector<std::string>& args, const fs::path& run, double whole, RandomStream moments) {
  int kills = 0;
  for (std::uint64_t attempt = 0; attempt < 200; ++attempt) {
    Program p(args);
    const double share = 0.2 + 0.6 * static_cast<double>(uniform_from(moments.word(attempt)));
    std::this_thread::sleep_for(std::chrono::duration<double>(whole * share * (1 + 0.2 * kills)));
    p.signal(SIGKILL);
    const Finished f = p.wait();
    if (f.code == 128 + SIGKILL) {
      ++kills;
    } else if (f.code != 0) {
      throw std::runtime_error(fmt::format("kill_until_finished: exit code {}\n{}", f.code, f.err));
    } else if (kills) {
      return kills;
    } else {
      fs::remove_all(run);
      whole /= 2;
    }
  }
  throw std::runtime_error(fmt::format("kill_until_finished: still not finished after {} kills", kills));
}

std::vector<std::string> tiny_run(const std::filesystem::path& data, const std::filesystem::path& out) {
  return {"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--epochs", "1",
          "--log-every", "2", "--out", out.string()};
}

std::vector<std::string> small_model(const std::filesystem::path& data) {
  return {"--data-dir", data.string(), "--width", "16", "--depth", "2", "--heads", "2", "--patch", "7", "--batch", "16"};
}

std::vector<std::string> small_run(const std::filesystem::path& data, const std::filesystem::path& out, const std::vector<std::string>& more) {
  return with(with(with({"train", "vit"}, small_model(data)), {"--out", out.string()}), more);
}

void check_refused(const std::vector<Wrong>& table, const std::vector<std::string>& verb) {
  for (const Wrong& w : table) {
    const Finished f = run_norma(with(verb, w.args));
    CAPTURE(w.args);
    CHECK(f.code == w.code);
    CHECK_THAT(f.err, Catch::Matchers::Equals(w.text));
    CHECK(f.out.empty());
  }
}

}  // namespace norma::test
