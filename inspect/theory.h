// What theory says of the norms of an attention matrix, and what a random one measures: the bounds of softmax, the Gaussian
// expectations of element-wise functions, and the exponent of N (Saratchandran et al., arXiv 2410.18613, section 4).
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "autograd/ops.h"
#include "inspect/spectral.h"

namespace norma::inspect {

/// Upper bounds that hold for every S, of N queries that see N keys, 1 or more; absent where none is known here.
///   softmax          sqrt N, 2 sqrt N (the paper's Theorem 4.1), sqrt(N) / 2: a row's Jacobian diag(a) - a a^T is largest at (1/2, 1/2)
///   rows over a sum  sqrt N, of rows that are non-negative and sum to one
///   sigmoid over c   N/c and N/4c, as sigmoid lies below 1 and its slope is 1/4 at most
///   relu over c      the Jacobian: N/c
///   (a x + b) over c the Jacobian: it is N |a|/c whatever S
/// Where keys are hidden they hold too, but for divisors c that count the visible keys.
struct Bounds {
  std::optional<double> fro, jacobian;
  std::optional<double> jacobian_sharp;  // that some S reaches
};
Bounds bounds(const Scoring& scoring, Index tokens);

/// Expectations for scores that are independent and N(0, rms^2), every query seeing N keys:
///   fro      sqrt(E ||A||_F^2)      x^p / sqrt N: sqrt(N (2p-1)!!) rms^p
///   jacobian sqrt(E ||dA/dS||_F^2)  x^p / sqrt N: sqrt(N (2p-3)!!) p rms^(p-1)
/// Exact at any N; where a mean norm is meant: E ||A||_F lies below, by the variance of ||A||_F^2, which is small where N is
/// large. Of softmax and normalised rows it is an integral over the row's divisor, and tends to sqrt(E phi^2) / E phi as N
/// grows: sqrt e for softmax at rms 1. `width` d > 0: for scores q k / sqrt d of vectors of d normal numbers instead, which
/// are Gaussian only given q: E s^2p lies above the Gaussian moment by prod_{i<p} (1 + 2i/d).
/// Absent where no such expectation is known here: the Jacobian of normalised rows, a width with relu or sigmoid, and
/// softmax and normalised rows at an rms of 0 or above 100. Throws where N is below 1, or rms or width negative, or rms not finite.
struct Expectation {
  std::optional<double> fro, jacobian;
};
Expectation expectation(const Scoring& scoring, Index tokens, double rms = 1, Index width = 0);

struct TheoryConfig {
  Scoring scoring;
  std::vector<Index> tokens;  // each from 1
  Index width = 64;           // d, of a head
  Index samples = 4;          // independent heads for each N
  double rms = 1;             // of the scores
  std::uint64_t seed = 1;
  bool spectral = false;      // also the spectral norm: many passes instead of one
  Place place = {};           // f32 or f64
  std::function<void(double)> worked = {};  // called now and then with the work done since, in scores; see theory_work
};
/// What measure_theory will have told config.worked in all: for foretelling how long it takes.
double theory_work(const TheoryConfig& config, Index tokens);

struct Measured {
  double mean = 0, error = 0;  // over the samples, and the standard error of the mean (NaN for one sample)
};
struct TheoryPoint {
  Index tokens = 0;
  Measured fro, jacobian, norm, stable_rank;  // the last two: with config.spectral
  double score_rms = 0;
  Index unconverged = 0;  // samples whose spectral norm had not settled: theirs is a lower bound
};
/// One attention head with Q and K of independent N(0, 1) entries and S = rms Q K^T / sqrt d, measured by the kernel that
/// computes attention. A function of the seed alone. Throws naming the field that is out of range.
TheoryPoint measure_theory(const TheoryConfig& config, Index tokens);

/// y = factor * N^exponent by least squares in the logarithms. `error`, the exponent's standard error: the larger of what
/// the scatter about the line says (three points or more) and what the errors of y carry over, where given; absent where
/// neither is known. No law with fewer than two different N, or where a value is not positive and finite.
struct PowerLaw {
  double exponent = 0, factor = 0;
  std::optional<double> error;
};
std::optional<PowerLaw> fit_power_law(const std::vector<double>& n, const std::vector<double>& y,
                                      const std::vector<double>& y_error = {});

}  // namespace norma::inspect
