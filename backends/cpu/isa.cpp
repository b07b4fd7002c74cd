#include "backends/cpu/isa.h"

#include <cstdlib>

#include "core/error.h"

namespace norma::cpu {
namespace {

bool processor_has(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::base;
}

Isa forced(std::string_view text) {
  for (Isa i : {Isa::base, Isa::avx2, Isa::avx512})
    if (name(i) == text) {
      if (!processor_has(i)) fail("NORMA_CPU: this processor has no {} instructions", text);
      return i;
    }
  fail("NORMA_CPU: unknown instruction set \"{}\"; there are base, avx2, avx512", text);
}

Isa& active() {
  static Isa chosen = [] {
    if (const char* text = std::getenv("NORMA_CPU"); text && *text) return forced(text);
    return processor_has(Isa::avx512) ? Isa::avx512 : processor_has(Isa::avx2) ? Isa::avx2 : Isa::base;
  }();
  return chosen;
}

}  // namespace

Isa isa() { return active(); }
void set_isa(std::string_view text) { active() = forced(text); }
std::string_view name(Isa isa) { return isa == Isa::base ? "base" : isa == Isa::avx2 ? "avx2" : "avx512"; }

}  // namespace norma::cpu
