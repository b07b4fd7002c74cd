#include "backends/cpu/isa.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/error.h"

namespace norma::cpu {
namespace {

constexpr Isa all[] = {Isa::amx, Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::base};  // the best first

/// Linux keeps room for the registers of tiles only in processes that asked for them, once, for all their threads.
[[maybe_unused]] bool tiles_permitted() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
#else
  return false;
#endif
}

#if defined(__x86_64__)
/// Asked of the processor itself: clang 14 has no name for it in __builtin_cpu_supports. The system's leave is tiles_permitted.
bool has_tiles() {
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_bf16) && (d & amx_tile);
}
#endif

bool processor_has(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512bf16) return processor_has(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::amx)
    return processor_has(Isa::avx512bf16) && has_tiles() && tiles_permitted();
#endif
  return isa == Isa::base;
}

/// `from` is what asked for it: the variable, the flag or a file.
Isa forced(std::string_view text, std::string_view from) {
  for (Isa i : all)
    if (name(i) == text) {
      if (!processor_has(i)) fail("{}: this processor has no {} instructions", from, text);
      return i;
    }
  fail("{}: unknown instruction set \"{}\"; there are base, avx2, avx512, avx512bf16, amx", from, text);
}

Isa& active() {
  static Isa chosen = [] {
    if (const char* text = std::getenv("NORMA_CPU"); text && *text) return forced(text, "NORMA_CPU");
    return *std::find_if(std::begin(all), std::end(all), processor_has);
  }();
  return chosen;
}

}  // namespace

Isa isa() { return active(); }
void set_isa(std::string_view text, std::string_view from) { active() = forced(text, from); }
std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::amx: return "amx";
    default: return "base";
  }
}

}  // namespace norma::cpu
