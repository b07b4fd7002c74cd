// Batches of a set that is too large for the device's memory, sent there while it computes. Of each batch the pixels travel as bytes, with
// where they are cut, how they are edited, and the labels, in one copy; cutting, mirroring, editing and normalising happen on the device.
#pragma once

#include <memory>

#include "core/backend.h"
#include "core/image_edit.h"
#include "datasets/dataset.h"

namespace norma::datasets {

/// A batch before it becomes tensors.
struct Prepared {
  std::vector<Index> examples;
  std::vector<std::int64_t> labels;
  std::vector<std::int64_t> cuts;  // [B, 4] as ImageCuts takes them, where the device cuts
  std::vector<ImageEdit> edits;    // [B, n]
  std::vector<float> pixels;       // normalised and augmented, where the host does
  int slot = 0;                    // of a BatchFeed
};

class BatchFeed {
 public:
  /// For batches of up to `batch` images of side_h by side_w at `place`, with `edits` edits each; `values` as in ImageCuts, on its device.
  /// Null where that device has no feed or does not cut such images. `set` must outlive it.
  static std::unique_ptr<BatchFeed> make(const ImageSet& set, Index batch, Index edits, const Tensor& values, Index side_h, Index side_w,
                                         Place place, int slots);
  /// Gathers the pixels of batch.examples and sends all to batch.slot; batch.cuts name examples by their place in the batch. For one
  /// thread, which waits here while the slot's last copy is on its way.
  void send(const Prepared& batch);
  /// images [B, channels, side_h, side_w] and labels i64 [B] of the batch last sent to `slot`. For one thread; waits for nothing.
  std::pair<Tensor, Tensor> receive(const Prepared& batch);

 private:
  BatchFeed(const ImageSet& set, Index batch, Index edits, const Tensor& values, Index side_h, Index side_w, Place place);
  const ImageSet& set_;
  Index batch_, edits_, side_h_, side_w_;
  Place place_;
  Tensor values_;
  std::size_t image_bytes_, cuts_at_, edits_at_, labels_at_, bytes_;  // a slot: pixels, cuts, edits, labels
  std::unique_ptr<Backend::Feed> feed_;
};

}  // namespace norma::datasets
