// Explicit calls, because a linker drops static initialisers of unused library members.
#include "backends/register_all.h"

#include "backends/cpu/register.h"
#include "backends/reference/reference.h"

namespace norma {

void register_backends() {
  register_reference();
  register_cpu();
}

}  // namespace norma
