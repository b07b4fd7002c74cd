// An MLP at once by multiply-adds, in f32 (mlp.cpp says when).
#pragma once

#include "core/backend.h"

namespace norma::cpu {

/// As Backend::mlp and mlp_backward; false where layer by layer is as quick.
bool mlp_by_multiply_adds(const Mlp& args);
bool mlp_by_multiply_adds(const MlpBackward& args);

}  // namespace norma::cpu
