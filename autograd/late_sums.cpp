#include "autograd/late_sums.h"

#include <algorithm>
#include <utility>

namespace norma {

namespace {
thread_local LateSums* current = nullptr;
}

LateSums::LateSums() : outer_(std::exchange(current, this)) {}
LateSums::~LateSums() { current = outer_; }
LateSums* LateSums::innermost() { return current; }

LateSums::Target::Target(const Tensor& t) {
  if (t) storage = t.storage(), view = t.view();
}

void LateSums::add(const Tensor& sums, const Tensor& dweight, const Tensor& dbias) {
  if (!waiting_.empty() && waiting_[0].sums.device() != sums.device()) finish();
  waiting_.push_back({sums, Target(dweight), Target(dbias)});
}

void LateSums::settle(const Tensor& g) {
  if (g && std::any_of(waiting_.begin(), waiting_.end(), [&](const Row& row) { return row.dweight.is(g) || row.dbias.is(g); })) finish();
}

void LateSums::finish() {
  const std::vector<Row> rows = std::exchange(waiting_, {});
  std::vector<std::shared_ptr<Storage>> held;
  std::vector<NormSums> all;
  const auto wanted = [&](const Target& target) -> View {
    std::shared_ptr<Storage> storage = target.storage.lock();
    if (!storage) return {};
    held.push_back(std::move(storage));
    return target.view;
  };
  for (const Row& row : rows) {
    NormSums one{row.sums.view(), wanted(row.dweight), wanted(row.dbias)};
    if (one.dweight || one.dbias) all.push_back(one);
  }
  if (!all.empty()) backend(rows[0].sums.device()).join_norm_sums(all);
}

}  // namespace norma
