// Rows of bf16 through softmax; norm.cpp has checked the operands.
#pragma once

#include "backends/cpu/norm_rows.h"

namespace norma::cpu {

void softmax_bf16(const View& x, const Rows& from, const View& y, const Rows& to, bool log);
void softmax_backward_bf16(const View& y, const Rows& value, const View& dy, const Rows& from, const View& dx, const Rows& to,
                           bool log);

}  // namespace norma::cpu
