#include "datasets/bytes.h"

#include <sys/mman.h>

#include <cstdint>

namespace norma::datasets {

void Bytes::resize_uninitialized(std::size_t size) {
  constexpr std::uintptr_t huge_page = std::uintptr_t{2} << 20;
  const std::size_t before = this->size();
  vector::resize(size);
  if (size < before + 2 * huge_page) return;
  const auto address = reinterpret_cast<std::uintptr_t>(data());
  const std::uintptr_t begin = (address + before + huge_page - 1) / huge_page * huge_page,
                       end = (address + size) / huge_page * huge_page;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // only a hint
}

}  // namespace norma::datasets
