// Which vector instructions this process uses. Files in backends/cpu/kernels/ are compiled once per instruction set, each
// time in its own namespace (NORMA_ISA), and reached through tables of function pointers.
//
// A kernel file includes raw-pointer headers only, and keeps its templates inside NORMA_ISA: an inline function shared with
// other files could be emitted with instructions that an older processor does not have.
#pragma once

#include <string_view>

namespace norma::cpu {

enum class Isa { base, avx2, avx512, avx512bf16, amx };  // each has what those before it have

/// The best this processor has, or what the environment variable NORMA_CPU (base, avx2, avx512, avx512bf16, amx) forces.
/// Throws when it forces what the processor lacks. base: SSE2 on x86-64, NEON on aarch64.
Isa isa();
std::string_view name(Isa isa);
/// What --cpu and tests choose; throws as the variable does, naming `from`.
void set_isa(std::string_view name, std::string_view from = "--cpu");

/// Picks the table of the active instruction set:  const GemmKernels& k = NORMA_KERNELS(gemm_kernels);
/// The BF16 forms are for the files in kernels/bf16/, which exist for avx512bf16 and amx too; all other tables
/// are those of avx512 there.
#if defined(__x86_64__)
#define NORMA_KERNELS(table)                                                                     \
  (::norma::cpu::isa() >= ::norma::cpu::Isa::avx512 ? ::norma::cpu::avx512::table                \
   : ::norma::cpu::isa() == ::norma::cpu::Isa::avx2 ? ::norma::cpu::avx2::table                  \
                                                    : ::norma::cpu::base::table)
#define NORMA_BF16_KERNELS(table)                                                                \
  (::norma::cpu::isa() == ::norma::cpu::Isa::amx          ? ::norma::cpu::amx::table             \
   : ::norma::cpu::isa() == ::norma::cpu::Isa::avx512bf16 ? ::norma::cpu::avx512bf16::table      \
                                                          : NORMA_KERNELS(table))
/// Declares such a table in every namespace.
#define NORMA_DECLARE_KERNELS(Type, table) \
  namespace base { extern const Type table; }     \
  namespace avx2 { extern const Type table; }     \
  namespace avx512 { extern const Type table; }
#define NORMA_DECLARE_BF16_KERNELS(Type, table) \
  NORMA_DECLARE_KERNELS(Type, table)            \
  namespace avx512bf16 { extern const Type table; } \
  namespace amx { extern const Type table; }
#else
#define NORMA_KERNELS(table) (::norma::cpu::base::table)
#define NORMA_BF16_KERNELS(table) NORMA_KERNELS(table)
#define NORMA_DECLARE_KERNELS(Type, table) \
  namespace base { extern const Type table; }
#define NORMA_DECLARE_BF16_KERNELS(Type, table) NORMA_DECLARE_KERNELS(Type, table)
#endif

}  // namespace norma::cpu
