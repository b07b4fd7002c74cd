#include "autograd/sweep.h"

#include <atomic>

namespace norma {

namespace {
thread_local SweepScope* outermost = nullptr;
std::atomic<std::uint64_t> last_number{0};
}  // namespace

SweepScope::SweepScope() {
  if (!outermost) outermost = this, number_ = ++last_number;
}
SweepScope::~SweepScope() {
  if (outermost == this) outermost = nullptr;
}
std::uint64_t SweepScope::number() { return outermost ? outermost->number_ : 0; }
Tensor& SweepScope::kept(const void* owner, int which) { return outermost->kept_[{owner, which}]; }

}  // namespace norma
