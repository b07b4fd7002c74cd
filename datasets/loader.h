// Batches in an order that is a pure function of (seed, epoch), augmented by draws that are a function of (seed, epoch,
// example), prepared ahead of time on another thread where there is one to have. A small set lies whole in the memory of a device that can cut batches there:
// then only what is drawn travels for each of them. Batches of a larger one are sent to it while it computes. The bits are the same.
#pragma once

#include <memory>

#include "datasets/dataset.h"
#include "datasets/rand_augment.h"

namespace norma::datasets {

struct Augment {
  Index pad = 0;          // pad by this on every side with zeros, then cut a random window of the original size
  bool flip = false;      // mirror left-right with probability 1/2
  RandAugment rand = {};  // edits of what was cut and mirrored
};
struct LoaderConfig {
  Index batch = 64;
  std::uint64_t seed = 0;
  bool shuffle = true;
  bool drop_last = true;
  Index image = 0;       // 0: as it is; larger: centred on zeros (28 -> 32)
  Augment augment;
  Place place = {};      // dtype of the images
  std::size_t resident_bytes = std::size_t{1} << 30;  // the largest set that is kept in a device's memory
};
struct Batch {
  Tensor images;  // [B, channels, image, image], or the set's own height and width where `image` is 0; normalised by its mean and std
  Tensor labels;  // i64 [B]
  std::vector<Index> examples;
};

/// The order of one epoch: a Fisher-Yates permutation of [0, count) drawn from (seed, epoch).
std::vector<Index> epoch_order(Index count, std::uint64_t seed, std::uint64_t epoch, bool shuffle);

class Loader {
 public:
  Loader(const ImageSet& set, LoaderConfig config);  // set must outlive it, and stay as it was checked here
  ~Loader();
  Index batches_per_epoch() const;
  /// Where reading goes on: batch `index` of `epoch`, O(1). Throws where an epoch has no such batch.
  void seek(std::uint64_t epoch, Index index);
  bool resident() const;  // the set lies in the device's memory
  bool sent_ahead() const;  // it does not, and the next batches are on their way there while the device computes
  std::uint64_t epoch() const;
  Index index() const;
  /// The next batch; rolls over into the next epoch. Where the device has no memory for it, that is thrown and the batch stays the next.
  Batch next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace norma::datasets
