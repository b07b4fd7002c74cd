// Times of work on a device, which runs behind the host: groups of calls between two moments at which nothing is left to do.
#pragma once

#include <functional>
#include <vector>

#include "core/backend.h"

namespace norma::bench {

double median(std::vector<double> x);

/// Milliseconds of one call: the median over groups that take about `seconds` together. A group is recorded and replayed where the device
/// can, so that what the host needs to ask for a call is not in it; so the call must wait for nothing.
double call_ms(Device device, const std::function<void()>& call, double seconds);

/// GFLOP/s of one large matrix product (8192 cubed) on random numbers: what the device's own library reaches.
double product_peak(Device device, DType dtype);

}  // namespace norma::bench
