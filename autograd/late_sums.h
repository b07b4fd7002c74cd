// Defers the last reduction of norm-weight gradients: blocks leave partial sums (LayerNormBackward::sums), one call joins those of all norms at
// the end of the sweep. Only gradients of leaves wait, which nothing reads before, as a rule; what does says so first (settle). A pass that throws leaves
// them undefined.
#pragma once

#include <memory>
#include <vector>

#include "core/backend.h"

namespace norma {

class LateSums {
 public:
  LateSums();  // the innermost of this thread while it lives
  ~LateSums();
  LateSums(const LateSums&) = delete;
  /// Null outside of backward passes.
  static LateSums* innermost();

  /// dweight and dbias, one of which may be none, are to be made of `sums` (NormSums). One that nobody holds any more by then is left out.
  void add(const Tensor& sums, const Tensor& dweight, const Tensor& dbias);
  /// g is about to be read or copied.
  void settle(const Tensor& g);
  /// Adds up all that waits.
  void finish();

 private:
  struct Target {
    std::weak_ptr<Storage> storage;
    View view;
    explicit Target(const Tensor& t);
    bool is(const Tensor& t) const { return storage.lock() == t.storage(); }
  };
  struct Row {
    Tensor sums;
    Target dweight, dbias;
  };
  std::vector<Row> waiting_;
  LateSums* outer_;
};

}  // namespace norma
