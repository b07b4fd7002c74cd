// The door of the CUDA backend.
#pragma once

namespace norma {

/// Makes Device::Kind::cuda known.
void register_cuda();

}  // namespace norma
