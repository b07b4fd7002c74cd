// Linear layers of mixed precision; linear.cpp hands them over. False declines, as the verbs do.
#pragma once

#include "core/backend.h"

namespace norma::cpu {

bool linear_bf16(const LinearForward& args);
bool linear_backward_bf16(const LinearBackward& args);

}  // namespace norma::cpu
