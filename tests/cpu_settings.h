// The settings of the CPU backend, which tests change.
#pragma once

#include <catch2/catch.hpp>
#include <initializer_list>
#include <string>

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/error.h"

namespace norma::test {

/// At its end they are what they were before, also where a REQUIRE has failed meanwhile.
class RestoreSettings {
 public:
  RestoreSettings() = default;
  RestoreSettings(const RestoreSettings&) = delete;
  ~RestoreSettings() {
    cpu::set_threads(threads_);
    cpu::set_gemm_provider(provider_);
    cpu::set_isa(isa_);
  }

 private:
  const int threads_ = cpu::threads();
  const cpu::GemmProvider provider_ = cpu::gemm_provider();
  const std::string isa_{cpu::name(cpu::isa())};
};

/// f(name) under each of these instruction sets that this processor has.
template <class F>
void for_each_isa(std::initializer_list<const char*> sets, F&& f) {
  const RestoreSettings restore;
  for (const std::string isa : sets) {
    try {
      cpu::set_isa(isa);
    } catch (const Error&) {
      continue;  // this processor lacks it
    }
    CAPTURE(isa);
    f(isa);
  }
}
/// Those whose kernels differ in more than products of bf16.
template <class F>
void for_each_isa(F&& f) {
  for_each_isa({"base", "avx2", "avx512"}, f);
}

}  // namespace norma::test
