// The ceiling that benchmarks are held against: the f32 multiply-add rate of this machine's active instruction set.
#pragma once

namespace norma::bench {

/// Wall-clock seconds of a steady clock.
double seconds();
/// Seconds of processor time of this process: with one thread, a clock that stands still while others are computing.
double processor_seconds();

/// GFLOP/s of `threads` threads of the CPU backend's pool, best of several runs. Leaves the pool at its former size.
double fma_peak(int threads, double (*clock)() = seconds);

}  // namespace norma::bench
