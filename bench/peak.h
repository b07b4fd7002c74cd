// The ceiling that benchmarks are held against: the f32 multiply-add rate of this machine's active instruction set.
#pragma once

namespace norma::bench {

/// Wall-clock seconds of a steady clock.
double seconds();
/// Seconds of processor time of this process: with one thread, a clock that stands still while others are computing.
double processor_seconds();

/// GFLOP/s of `threads` threads of the CPU backend's pool, best of several runs. Leaves the pool at its former size.
double fma_peak(int threads, double (*clock)() = seconds);

/// Nanoseconds that a word takes from one core to another and back, best of some thousand times; 0 where there is one core. On a virtual machine it
/// changes as its cores are moved between dies, and with it the time of everything that goes from core to core.
double core_round_trip();

}  // namespace norma::bench
