// The symbol of a function of the running program, from the symbol table in its file: kernels are local to their files, and the dynamic linker
// knows no local symbols.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

#include "backends/cuda/emulator/emulator.h"

namespace norma::cuda::emulator {
namespace {

std::map<std::uintptr_t, std::string> read_symbols() {
  std::map<std::uintptr_t, std::string> found;
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat about {};
  if (file < 0 || fstat(file, &about) != 0) return found;
  const auto size = static_cast<std::size_t>(about.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return found;
  const char* start = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(start);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(start + header->e_shoff);
  for (std::size_t i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(start + sections[i].sh_offset);
    const char* names = start + sections[sections[i].sh_link].sh_offset;
    for (std::size_t k = 0; k < sections[i].sh_size / sizeof *symbols; ++k)
      if (symbols[k].st_value != 0 && (symbols[k].st_info & 0xf) == STT_FUNC) found.emplace(symbols[k].st_value, names + symbols[k].st_name);
  }
  munmap(mapped, size);
  return found;
}

/// Where the program lies in memory, from the addresses in its file on.
std::uintptr_t load_address() {
  std::uintptr_t at = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* to) {  // the first is the program
        *static_cast<std::uintptr_t*>(to) = info->dlpi_addr;
        return 1;
      },
      &at);
  return at;
}

}  // namespace

std::string symbol_of(const void* function) {
  static const std::map<std::uintptr_t, std::string> symbols = read_symbols();
  const auto found = symbols.find(reinterpret_cast<std::uintptr_t>(function) - load_address());
  return found == symbols.end() ? "?" : found->second;
}

}  // namespace norma::cuda::emulator
