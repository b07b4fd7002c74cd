#include "datasets/batch_feed.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace norma::datasets {
namespace {

constexpr std::size_t part_multiple = 256;  // where a part of a slot may begin

std::size_t rounded(std::size_t bytes) { return (bytes + part_multiple - 1) / part_multiple * part_multiple; }

}  // namespace

BatchFeed::BatchFeed(const ImageSet& set, Index batch, Index edits, const Tensor& values, Index side_h, Index side_w,
                     Place place)
    : set_(set),
      batch_(batch),
      edits_(edits),
      side_h_(side_h),
      side_w_(side_w),
      place_(place),
      values_(values),
      image_bytes_(static_cast<std::size_t>(set.channels * set.height * set.width)) {
  const auto n = static_cast<std::size_t>(batch);
  cuts_at_ = rounded(n * image_bytes_);
  edits_at_ = cuts_at_ + rounded(n * 4 * sizeof(std::int64_t));
  labels_at_ = edits_at_ + rounded(n * static_cast<std::size_t>(edits) * sizeof(ImageEdit));
  bytes_ = labels_at_ + rounded(n * sizeof(std::int64_t));
}

std::unique_ptr<BatchFeed> BatchFeed::make(const ImageSet& set, Index batch, Index edits, const Tensor& values,
                                           Index side_h, Index side_w, Place place, int slots) {
  const Device device = place.device;
  Backend& there = backend(device);
  const Tensor images = empty({0, set.channels, set.height, set.width}, {DType::u8, device}),
               cuts = empty({0, 4}, {DType::i64, device});
  const Tensor out = empty({0, set.channels, side_h, side_w}, place);
  const View none{nullptr, Layout({0, edits, ImageEdit::words}), DType::i32};
  if (!there.cut_images({images.view(), cuts.view(), none, values.view(), out.view()})) return nullptr;
  std::unique_ptr<BatchFeed> feed(new BatchFeed(set, batch, edits, values, side_h, side_w, place));
  feed->feed_ = there.feed(slots, feed->bytes_);
  return feed->feed_ ? std::move(feed) : nullptr;
}

void BatchFeed::send(const Prepared& batch) {
  auto* to = static_cast<char*>(feed_->fill(batch.slot));
  for (std::size_t n = 0; n < batch.examples.size(); ++n)
    std::memcpy(to + n * image_bytes_, set_.pixels.data() + static_cast<std::size_t>(batch.examples[n]) * image_bytes_,
                image_bytes_);
  const auto put = [&](std::size_t at, const auto& all) {
    const auto bytes = std::as_bytes(std::span(all));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(to + at));
  };
  put(cuts_at_, batch.cuts), put(edits_at_, batch.edits), put(labels_at_, batch.labels);
  feed_->send(batch.slot);
}

std::pair<Tensor, Tensor> BatchFeed::receive(const Prepared& batch) {
  const auto size = static_cast<Index>(batch.labels.size());
  const Tensor images = empty({size, set_.channels, side_h_, side_w_}, place_),
               labels = empty({size}, {DType::i64, place_.device});
  auto* from = static_cast<char*>(feed_->take(batch.slot));
  const View pixels{from, Layout({batch_, set_.channels, set_.height, set_.width}), DType::u8};
  const View edits{from + edits_at_, Layout({size, edits_, ImageEdit::words}), DType::i32};
  const View cuts{from + cuts_at_, Layout({size, 4}), DType::i64}, sent{from + labels_at_, Layout({size}), DType::i64};
  Backend& there = backend(place_.device);
  there.cut_images({pixels, cuts, edits, values_.view(), images.view()});
  there.copy(sent, labels.view());
  feed_->give_back(batch.slot);
  return {images, labels};
}

}  // namespace norma::datasets
