// The attention function as text: parsed from what a user types, printed back, and with did-you-mean where it is wrong.
//
//   softmax                 rows of exp(s)/sum exp(s)
//   x^3/sqrt(N)             polynomial over the root of the number of keys (the paper's scaled form)
//   x^3/sqrt(n)             the same, n counting per row the keys that no mask hides
//   x^3/14   x^3   x/N      by a constant (also x^3/sqrt(196)), unscaled, by N or n
//   0.5x + x^3/14           any coefficients up to x^8 ("*" is optional)
//   x^2/sum(x^2)            row-normalised, even powers only
//   sigmoid                 1/(1+exp(-s));  sigmoid(x - log(N)), sigmoid(x - 2)
//   relu/N  relu/n  relu
//
// Also as it is printed elsewhere: x³/√N, 0.5·x + x³/14, x − 2 (superscripts, √N, √(N), · × −).
#pragma once

#include <string>
#include <string_view>

#include "core/scoring.h"

namespace norma::nn {

/// Throws Error: what is wrong, where in the text, and the nearest form that would be right.
Scoring parse_scoring(std::string_view text);
/// The text that parses back to the same scoring.
std::string to_string(const Scoring& scoring);

/// "auto", "quadratic" or "linear"; throws Error naming them.
AttentionForm parse_attention_form(std::string_view text);
const char* name(AttentionForm form);

}  // namespace norma::nn
