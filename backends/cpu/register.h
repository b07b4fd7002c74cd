// The door of the CPU backend.
#pragma once

namespace norma {

/// Makes Device::Kind::cpu known.
void register_cpu();

}  // namespace norma
