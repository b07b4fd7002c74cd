// Signals that keep interrupting whatever waits.
#pragma once

#include <sys/time.h>

#include <csignal>

namespace norma::test {

/// SIGALRM every 5 ms for as long as this lives, with a handler that does nothing.
class Alarms {
 public:
  Alarms() {
    struct sigaction quiet {};
    quiet.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &quiet, &before_);
    set({{0, 5000}, {0, 5000}});
  }
  ~Alarms() {
    set({});
    ::sigaction(SIGALRM, &before_, nullptr);
  }
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;

  /// For a thread that is to wait undisturbed.
  static void spare_this_thread() {
    sigset_t alarms;
    sigemptyset(&alarms), sigaddset(&alarms, SIGALRM);
    ::pthread_sigmask(SIG_BLOCK, &alarms, nullptr);
  }

 private:
  static void set(const itimerval& every) { ::setitimer(ITIMER_REAL, &every, nullptr); }
  struct sigaction before_ {};
};

}  // namespace norma::test
