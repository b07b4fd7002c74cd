// A system that gives this thread no further threads, for tests of what is then done.
#pragma once

namespace norma::test {

/// While alive, nothing that this thread does can start another one.
class RefusedThreads {
 public:
  RefusedThreads();
  ~RefusedThreads();
  RefusedThreads(const RefusedThreads&) = delete;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool can_refuse_threads = false;  // the sanitizer's own pthread_create cannot be replaced
#else
constexpr bool can_refuse_threads = true;
#endif

}  // namespace norma::test
