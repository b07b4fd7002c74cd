// Rows of bf16 through softmax and layer norm; norm.cpp has checked the operands. Parameters and statistics are f32.
#pragma once

#include "backends/cpu/norm_rows.h"

namespace norma::cpu {

void softmax_bf16(const View& x, const Rows& from, const View& y, const Rows& to, bool log);
void softmax_backward_bf16(const View& y, const Rows& value, const View& dy, const Rows& from, const View& dx, const Rows& to,
                           bool log);
void layer_norm_bf16(const LayerNorm& args, const Rows& from, const Rows& to);
void layer_norm_backward_bf16(const LayerNormBackward& args, const Rows& from, const Rows& gradient, const Rows& add, const Rows& to);

}  // namespace norma::cpu
