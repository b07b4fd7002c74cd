// What is turned from scores into weights at a time.
#pragma once

#include "backends/cpu/kernels/attention_sums.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// A tile of rows of scores, turned into weights in place.
template <class T>
struct ScoreTile {
  T* p;
  Int ld;
  Int first;  // global number of the first row
  int rows;
  Int clear_to;  // columns beyond the visible ones that must be zero
  T scale = 1;   // softmax: of the scores, before anything else
  // Element-wise kinds without row normalisation may see a part of the columns at a time:
  Int column = 0, columns = Int{1} << 60;
  T* row_sums = nullptr;  // then the sums of the rows are added here
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
