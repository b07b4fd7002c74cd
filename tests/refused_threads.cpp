#include "tests/refused_threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cerrno>

namespace {
thread_local bool refusing = false;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) noexcept {
  static const auto create = reinterpret_cast<decltype(&pthread_create)>(::dlsym(RTLD_NEXT, "pthread_create"));
  return refusing ? EAGAIN : create(thread, attributes, body, argument);
}
#endif

namespace norma::test {

RefusedThreads::RefusedThreads() { refusing = true; }
RefusedThreads::~RefusedThreads() { refusing = false; }

}  // namespace norma::test
