// Whether this thread records what ops compute: autograd/node.h sets and tells it. It is here because writes in place, which are not
// recorded, ask for it.
#pragma once

namespace norma {

struct Recording {
  static inline constinit thread_local bool on = true;
};

}  // namespace norma
