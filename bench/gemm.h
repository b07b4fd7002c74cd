// Matrix products at the shapes of a transformer's training step: own kernels beside OpenBLAS, as shares of the peak.
#pragma once

namespace norma::bench {

/// Prints the table for 1 .. `threads` threads; only shapes whose line contains `filter` (empty: all).
void bench_gemm(int threads, const char* filter = "");

}  // namespace norma::bench
