// The ceiling that benchmarks are held against: the f32 multiply-add rate of this machine's active instruction set.
#pragma once

namespace norma::bench {

/// GFLOP/s of `threads` threads of the CPU backend's pool, best of several runs. Leaves the pool at its former size.
double fma_peak(int threads);

/// Wall-clock seconds of a steady clock.
double seconds();

}  // namespace norma::bench
