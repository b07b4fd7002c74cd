// The ceilings that benchmarks are held against: what registers alone can multiply with the active instruction set.
#pragma once

#include <cstdint>

namespace norma::bench {

/// Wall-clock seconds of a steady clock.
double seconds();
/// Seconds of processor time of this process: with one thread, a clock that stands still while others are computing.
double processor_seconds();

/// What a peak is of: multiply-adds of f32, or products of bf16 that the active instruction set has, as tiles or pairs. Zeros for numbers show
/// what a host that is short of power takes away: the pace of tiles then depends on what they multiply. Or of f32 in slices, whose operands are loaded
/// from the first-level cache: where another program has a core's second thread, tiles wait for its work with each load, too.
enum class Peak { fma, bf16, bf16_zeros, slices };
/// GFLOP/s (of slices: of f32) of `threads` threads of the CPU backend's pool in one run of some tenths of a millisecond, or longer; 0 where the instruction
/// set has no such product. The pool has that many threads already.
double peak_of_one_run(Peak peak, int threads, std::int64_t rounds, double (*clock)() = seconds);

/// The best of several runs. Both leave the pool at its former size.
double fma_peak(int threads, double (*clock)() = seconds);
double bf16_peak(int threads);

/// Nanoseconds that a word takes from one core to another and back, best of some thousand times; 0 where there is one core. On a virtual machine it
/// changes as its cores are moved between dies, and with it the time of everything that goes from core to core.
double core_round_trip();

}  // namespace norma::bench
