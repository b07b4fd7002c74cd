// Rows of bf16 through softmax; norm.cpp has checked the operands.
#pragma once

#include "backends/common/rows.h"

namespace norma::cpu {

void softmax_bf16(const View& x, const MatrixRows& from, const View& y, const MatrixRows& to, bool log);
void softmax_backward_bf16(const View& y, const MatrixRows& value, const View& dy, const MatrixRows& from, const View& dx, const MatrixRows& to,
                           bool log);

}  // namespace norma::cpu
