#include "backends/cuda/kernel_name.h"

#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

namespace norma::cuda {

std::string kernel_name(const char* symbol) {
  if (std::strncmp(symbol, "_Z", 2) != 0) return symbol;
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(symbol, nullptr, nullptr, &status), std::free);
  if (!text) return symbol;
  std::string name = text.get();  // "void norma::cuda::(anonymous namespace)::fill_kernel<norma::bf16>(norma::cuda::Elements<1>, double)"
  for (const std::string_view room : {"norma::", "cuda::", "(anonymous namespace)::"})
    for (std::size_t at = name.find(room); at != std::string::npos; at = name.find(room, at)) name.erase(at, room.size());
  int depth = 0;  // within arguments of templates
  std::size_t first = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (depth == 0 && name[i] == ' ') first = i + 1;
    if (depth == 0 && name[i] == '(') return name.substr(first, i - first);
  }
  return name;
}

}  // namespace norma::cuda
