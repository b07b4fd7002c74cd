// The counter of random draws inside a step: one innermost scope for each thread.
#include "autograd/grad.h"
#include "core/error.h"
#include "core/random.h"

namespace norma {

namespace {

thread_local RandomScope* innermost = nullptr;

}  // namespace

RandomScope::RandomScope(std::uint64_t seed, std::uint64_t step) : outer_(innermost), seed_(seed), step_(step) {
  innermost = this;
}

RandomScope::RandomScope(std::uint64_t seed, const Tensor& ids) : outer_(innermost), seed_(seed), ids_(ids) {
  innermost = this;
}

RandomScope::~RandomScope() { innermost = outer_; }

RandomStream RandomScope::next() {
  if (!innermost)
    fail("RandomScope: none is open on this thread, which dropout and other draws need; declare one around the step: RandomScope scope(seed, step)");
  const std::uint64_t draw = innermost->drawn_++, seed = innermost->seed_;
  const Tensor& ids = innermost->ids_;
  if (!ids) return {seed, stream_id(innermost->step_, draw)};
  if (draw >= static_cast<std::uint64_t>(ids.numel())) fail("RandomScope: the captured step draws more than {} times", ids.numel());
  return {seed, 0, ids.view().as<std::uint64_t>() + draw};
}

bool RandomScope::active() { return innermost != nullptr; }

std::uint64_t RandomScope::drawn() { return innermost ? innermost->drawn_ : 0; }

void RandomScope::rewind(std::uint64_t drawn) {
  if (innermost) innermost->drawn_ = drawn;
}

}  // namespace norma
