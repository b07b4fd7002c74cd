// One worker thread prepares batches ahead; where the system has none to give, each is prepared when it is asked for.
// All randomness is a function of (seed, epoch, example), so where reading starts, how far ahead the worker is, and how
// often it was interrupted change nothing.
#include "datasets/loader.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <list>
#include <mutex>
#include <numeric>
#include <span>
#include <system_error>
#include <thread>
#include <tuple>

#include "core/backend.h"
#include "datasets/batch_feed.h"
#include "datasets/draws.h"

namespace norma::datasets {

namespace {

constexpr std::size_t queue_length = 3;  // batches ahead
constexpr Index most_padding = Index{1} << 30;

/// Where an augmented image is cut from the padded one.
struct Cut {
  Index down = 0, right = 0;  // row and column of the original that lands in the corner
  bool mirror = false;
};

Cut draw_cut(const Augment& augment, std::uint64_t seed, std::uint64_t epoch, Index example) {
  const Philox words = RandomStream{seed, stream_id(epoch, augment_draws)}.block(static_cast<std::uint64_t>(example));
  Cut cut;
  cut.down = below(words[0], 0, 2 * augment.pad + 1) - augment.pad;
  cut.right = below(words[1], 0, 2 * augment.pad + 1) - augment.pad;
  cut.mirror = augment.flip && words[2] >> 31 != 0;
  return cut;
}

template <class T>
Tensor converted(const std::vector<float>& pixels, const Shape& shape, Place place) {
  std::vector<T> values(pixels.size());
  std::transform(pixels.begin(), pixels.end(), values.begin(), [](float x) { return static_cast<T>(x); });
  return from_host(values.data(), shape, place);
}

}  // namespace

std::vector<Index> epoch_order(Index count, std::uint64_t seed, std::uint64_t epoch, bool shuffle) {
  if (count < 0) fail("epoch_order: count {} is negative", count);
  std::vector<Index> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), Index{0});
  const RandomStream stream{seed, stream_id(epoch, order_draws)};
  for (Index i = count - 1; shuffle && i > 0; --i) {  // Fisher-Yates; block i decides place i
    const Philox words = stream.block(static_cast<std::uint64_t>(i));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(words[0], words[1], i + 1))]);
  }
  return order;
}

struct Loader::Impl {
  const ImageSet& set;
  const LoaderConfig config;
  Index side_h, side_w, per_epoch;
  std::vector<std::array<float, 256>> normalised;  // per channel: the value of each byte
  Tensor set_there, values_there;                  // ImageCuts's set and values where the set is resident
  std::unique_ptr<BatchFeed> feed;                 // where batches are sent ahead

  // Of the thread that prepares batches alone.
  std::vector<std::uint8_t> window, beside;  // one image being augmented
  std::vector<Index> order;
  std::uint64_t order_epoch = 0;

  // Next batch to hand out; only the caller's thread touches these.
  std::uint64_t epoch = 0;
  Index index = 0;

  // Shared with the worker under `mutex`. A seek raises `generation`: what the worker was preparing is then dropped.
  std::mutex mutex;
  std::condition_variable changed;
  std::list<Prepared> ready,
      used;  // to hand out, and to fill again; all were made at the start, so that moving one between lists cannot fail
  std::exception_ptr error;
  std::uint64_t generation = 0, worker_epoch = 0;
  Index worker_index = 0;
  bool stop = false;
  std::thread worker;  // none where a limit of processes is reached: next() prepares each batch

  Impl(const ImageSet& s, const LoaderConfig& c) : set(s), config(c) {
    if (c.batch < 1) fail("loader: batch {} must be at least 1", c.batch);
    if (c.augment.pad < 0 || c.augment.pad > most_padding)
      fail("loader: padding {} must be in 0..{}", c.augment.pad, most_padding);
    check(c.augment.rand);
    check(s);
    if (c.augment.rand.operations > 0) check_size(s.channels, s.height, s.width);
    if (!is_floating(c.place.dtype)) fail("loader: images need a floating dtype, not {}", c.place.dtype);
    if (c.image != 0 && (c.image < s.height || c.image < s.width)) {
      fail("loader: image size {} is smaller than the {}x{} images of {}; larger ones are centred, none is cut",
           c.image, s.height, s.width, s.name);
    }
    side_h = c.image != 0 ? c.image : s.height;
    side_w = c.image != 0 ? c.image : s.width;
    window.resize(static_cast<std::size_t>(s.channels * s.height * s.width));
    beside.resize(window.size());
    per_epoch = c.drop_last ? s.count / c.batch : (s.count + c.batch - 1) / c.batch;
    if (per_epoch == 0) {
      fail("loader: {} examples of {} do not fill a batch of {}; give a smaller --batch", s.count, s.name, c.batch);
    }
    for (Index ch = 0; ch < s.channels; ++ch) {
      const auto channel = static_cast<std::size_t>(ch);
      auto& table = normalised.emplace_back();
      for (std::size_t v = 0; v < 256; ++v) {
        table[v] = (static_cast<float>(v) / 255.0f - s.mean[channel]) / s.std[channel];
      }
    }
    if (c.place.device.kind == Device::Kind::cuda) {
      const Tensor values = from_host(normalised.data(), {set.channels, 256}, {DType::f32, c.place.device});
      if (s.pixels.size() <= c.resident_bytes) reside(values);
      if (!set_there)
        feed = BatchFeed::make(set, std::min(c.batch, s.count), c.augment.rand.operations, values, side_h, side_w,
                               c.place, queue_length);
    }
    used.resize(feed ? queue_length : queue_length + 1);  // with a feed one a slot, else one more that is handed out
    for (int slot = 0; Prepared & buffers : used) buffers.slot = slot++;
    try {
      worker = std::thread([this] { work(); });
    } catch (const std::system_error&) {
    }
  }

  void reside(const Tensor& values) {
    const Tensor none = empty({0, 4}, {DType::i64, config.place.device}),
                 out = empty({0, set.channels, side_h, side_w}, config.place);
    const Tensor images = from_host(set.pixels.data(), {set.count, set.channels, set.height, set.width},
                                    {DType::u8, config.place.device});
    const View unedited{nullptr, Layout({0, config.augment.rand.operations, ImageEdit::words}), DType::i32};
    if (!backend(config.place.device).cut_images({images.view(), none.view(), unedited, values.view(), out.view()}))
      return;
    set_there = images, values_there = values;
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    if (worker.joinable()) worker.join();
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || (!error && !used.empty()); });
      if (stop) return;
      prepare_next(lock);
    }
  }

  /// Prepares one batch, with the mutex, which it lets go of meanwhile; there are no error and buffers to fill.
  void prepare_next(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t from = generation, at_epoch = worker_epoch;
    const Index at_index = worker_index;
    std::list<Prepared> mine;
    mine.splice(mine.begin(), used, used.begin());
    lock.unlock();
    std::exception_ptr failed;
    try {
      if (order.empty() || order_epoch != at_epoch) {
        order = epoch_order(set.count, config.seed, at_epoch, config.shuffle);
        order_epoch = at_epoch;
      }
      prepare(mine.front(), at_epoch, at_index);
      if (feed) feed->send(mine.front());
    } catch (...) {  // out of memory; the caller of next() gets it
      failed = std::current_exception();
    }
    lock.lock();
    if (from != generation) return used.splice(used.begin(), mine);
    error = failed;
    if (failed)
      used.splice(used.begin(), mine);
    else
      ready.splice(ready.end(), mine);
    worker_index = at_index + 1 < per_epoch ? at_index + 1 : 0;
    worker_epoch = worker_index == 0 ? at_epoch + 1 : at_epoch;
    changed.notify_all();
  }

  void prepare(Prepared& batch, std::uint64_t at_epoch, Index at_index) {
    const Index begin = at_index * config.batch, size = std::min(config.batch, set.count - begin);
    const Index image = set.channels * side_h * side_w;
    batch.examples.assign(order.begin() + begin, order.begin() + begin + size);
    batch.labels.resize(static_cast<std::size_t>(size));
    const bool cut_there = set_there || feed;
    if (!cut_there) batch.pixels.resize(static_cast<std::size_t>(size * image));
    batch.cuts.clear();
    batch.edits.clear();
    for (Index n = 0; n < size; ++n) {
      const Index example = batch.examples[static_cast<std::size_t>(n)];
      const Cut cut = draw_cut(config.augment, config.seed, at_epoch, example);
      const std::size_t first = batch.edits.size();
      for (Index k = 0; k < config.augment.rand.operations; ++k)
        batch.edits.push_back(draw_edit(config.augment.rand, config.seed, at_epoch, example, k, set.height, set.width));
      batch.labels[static_cast<std::size_t>(n)] = set.labels[static_cast<std::size_t>(example)];
      if (cut_there)
        batch.cuts.insert(batch.cuts.end(), {feed ? n : example, cut.down, cut.right, cut.mirror});
      else
        place(example, cut, std::span(batch.edits).subspan(first), batch.pixels.data() + n * image);
    }
  }

  /// Cuts, mirrors, edits, normalises and centres one image. What no pixel covers is black (0), as in the files.
  void place(Index example, const Cut& cut, std::span<const ImageEdit> edits, float* out) {
    const Index h = set.height, w = set.width, top = (side_h - h) / 2, left = (side_w - w) / 2;
    std::fill(window.begin(), window.end(), std::uint8_t{0});
    for (Index c = 0; c < set.channels;
         ++c) {  // the window's row y shows the original's row y + down; columns alike, then mirrored
      const std::uint8_t* plane = set.pixels.data() + (example * set.channels + c) * h * w;
      for (Index y = std::max<Index>(0, -cut.down); y < std::min(h, h - cut.down); ++y) {
        const std::uint8_t* row = plane + (y + cut.down) * w;
        std::uint8_t* line = window.data() + (c * h + y) * w;
        for (Index x = std::max<Index>(0, -cut.right); x < std::min(w, w - cut.right); ++x)
          line[cut.mirror ? w - 1 - x : x] = row[x + cut.right];
      }
    }
    for (const ImageEdit& edit : edits) apply(edit, set.channels, h, w, window.data(), beside.data());
    const std::uint8_t* from = window.data();
    for (Index c = 0; c < set.channels; ++c, out += side_h * side_w) {
      const auto& table = normalised[static_cast<std::size_t>(c)];
      std::fill_n(out, side_h * side_w, table[0]);
      for (Index y = 0; y < h; ++y)
        for (Index x = 0; x < w; ++x) out[(top + y) * side_w + left + x] = table[*from++];
    }
  }

  /// Images and labels at their place.
  std::pair<Tensor, Tensor> tensors(const Prepared& batch) const {
    if (feed) return feed->receive(batch);
    return {images(batch), from_host(batch.labels.data(), {static_cast<Index>(batch.labels.size())},
                                     {DType::i64, config.place.device})};
  }

  Tensor images(const Prepared& batch) const {
    const auto size = static_cast<Index>(batch.labels.size());
    const Shape shape{size, set.channels, side_h, side_w};
    if (set_there) {
      const Tensor cuts = from_host(batch.cuts.data(), {size, 4}, {DType::i64, config.place.device}),
                   out = empty(shape, config.place);
      const Tensor edits = from_host(batch.edits.data(), {size, config.augment.rand.operations, ImageEdit::words},
                                     {DType::i32, config.place.device});
      backend(config.place.device)
          .cut_images({set_there.view(), cuts.view(), edits.view(), values_there.view(), out.view()});
      return out;
    }
    const std::vector<float>& pixels = batch.pixels;
    switch (config.place.dtype) {
      case DType::f64: return converted<double>(pixels, shape, config.place);
      case DType::bf16: return converted<bf16>(pixels, shape, config.place);
      default: return from_host(pixels.data(), shape, config.place);
    }
  }
};

Loader::Loader(const ImageSet& set, LoaderConfig config) : impl_(std::make_unique<Impl>(set, config)) {}
Loader::~Loader() = default;

Index Loader::batches_per_epoch() const { return impl_->per_epoch; }
bool Loader::resident() const { return static_cast<bool>(impl_->set_there); }
bool Loader::sent_ahead() const { return impl_->feed != nullptr; }
std::uint64_t Loader::epoch() const { return impl_->epoch; }
Index Loader::index() const { return impl_->index; }

void Loader::seek(std::uint64_t epoch, Index index) {
  Impl& s = *impl_;
  if (index < 0 || index > s.per_epoch) fail("loader: batch {} is outside 0..{} of an epoch", index, s.per_epoch);
  if (index == s.per_epoch) {  // the end of an epoch is the start of the next
    ++epoch;
    index = 0;
  }
  s.epoch = epoch;
  s.index = index;
  {
    const std::lock_guard lock(s.mutex);
    ++s.generation;
    s.worker_epoch = epoch;
    s.worker_index = index;
    s.error = nullptr;
    s.used.splice(s.used.begin(), s.ready);
  }
  s.changed.notify_all();
}

Batch Loader::next() {
  Impl& s = *impl_;
  const Prepared* prepared = nullptr;  // it stays in front until it is handed out
  {
    std::unique_lock lock(s.mutex);
    if (!s.worker.joinable() && s.ready.empty() && !s.error) s.prepare_next(lock);
    s.changed.wait(lock, [&] { return !s.ready.empty() || s.error; });
    if (s.ready.empty()) std::rethrow_exception(s.error);
    prepared = &s.ready.front();
  }
  Batch batch;
  batch.examples = prepared->examples;
  std::tie(batch.images, batch.labels) = s.tensors(*prepared);
  {
    const std::lock_guard lock(s.mutex);
    s.used.splice(s.used.begin(), s.ready, s.ready.begin());
  }
  s.changed.notify_all();
  if (++s.index == s.per_epoch) {
    s.index = 0;
    ++s.epoch;
  }
  return batch;
}

}  // namespace norma::datasets
