// norma help attention: what --attention understands. docs/attention-functions.md has the same with examples.
#include <fmt/format.h>

#include "apps/verbs.h"
#include "core/terminal.h"

namespace norma::apps {

int help_attention(std::size_t width) {
  fmt::print("{}", filled(R"help(attention functions: what --attention and --other take

Attention is A V with A = f(S), S = Q K^T / sqrt(d), d the width of a head. x is one score of S.

  softmax               each row exp(x) / sum exp(x)
  x^3/sqrt(N)           a polynomial: powers x to x^8, and a constant, with any coefficients: 0.5x + x^3/14, 1 - 2x + x^2
    /14, /sqrt(196)     over a constant; over N or n: /N, /sqrt(N), /n, /sqrt(n). All terms have the same N or n: (0.5x + x^3)/sqrt(N), not 0.5x + x^3/sqrt(N)
  x^2/sum(x^2)          a polynomial of even powers and coefficients from 0 on, each row over its sum
  sigmoid               1 / (1 + exp(-x)); sigmoid(x - 2), sigmoid(x - log(N)); over N or n: sigmoid/N
  relu                  max(x, 0); over N or n: relu/N, relu/sqrt(n)

N   how many keys (tokens) a row has. With 28x28 images and --patch 4 it is 49, and 50 with the class token
n   how many keys of the row no mask hides. A Vision Transformer hides none: there n is N

x^3/sqrt(N) may be typed as x³/√N too. Quote it in a shell: --attention "x^3/sqrt(N)".

Not possible: other functions of x (|x|, exp, tanh, gelu); powers above 8; a factor or scale within softmax, softmax(2x);
powers and factors of sigmoid and relu, relu^2; products and powers of sums: write 1 + 2x + x^2 for (1 + x)^2.

Every function has all statistics of its matrix, but entropy, which only rows that sum to one have: softmax and /sum. Where a
polynomial is computed in linear form (docs/linear-attention.md), extremes are of 48 rows a head and most others estimated from them.
)help",
                          width));
  return ok;
}

}  // namespace norma::apps
