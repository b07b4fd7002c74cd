// What docs/language-model.md and docs/attention-functions.md say of causal models: caches, heads that share keys, rows that a loss leaves out.
#include <catch2/catch.hpp>
#include <algorithm>
#include <string>

#include "autograd/ops.h"
#include "nn/scoring.h"

using namespace norma;

namespace {

constexpr Place f64{DType::f64};

double difference(const Tensor& a, const Tensor& b) { return norm(a.detach() - b.detach()).item() / norm(b.detach()).item(); }

struct CacheErrors {
  double growing = 0, fixed = 0;  // of the largest row
};

/// Of attention row by row, with the keys so far and with all keys under a mask, against one causal pass.
CacheErrors cache_errors(const std::string& scoring) {
  const Index rows = 20, width = 8;
  const Shape shape{2, 3, rows, width};
  const Tensor q = randn(shape, {1, 1}, f64), k = randn(shape, {1, 2}, f64), v = randn(shape, {1, 3}, f64);
  AttentionOptions causal, masked;
  causal.scoring = masked.scoring = nn::parse_scoring(scoring);
  causal.causal = true;
  const Tensor whole = attention(q, k, v, causal);
  CacheErrors worst;
  for (Index t = 0; t < rows; ++t) {
    const Tensor row = slice(q, 2, t, t + 1), expected = slice(whole, 2, t, t + 1);
    masked.key_mask = expand(less_equal(arange(rows), t), {2, rows});
    const Tensor grown = attention(row, slice(k, 2, 0, t + 1), slice(v, 2, 0, t + 1), causal);
    worst.growing = std::max(worst.growing, difference(grown, expected));
    worst.fixed = std::max(worst.fixed, difference(attention(row, k, v, masked), expected));
  }
  return worst;
}

}  // namespace

TEST_CASE("a cache gives the rows of one causal pass, where no N is in the function or the cache has a fixed size", "[language_model]") {
  for (const char* scoring : {"softmax", "x^3/14", "x^3/sqrt(n)", "x^2/sum(x^2)", "sigmoid/n", "relu/n", "x^3/sqrt(N)", "sigmoid(x - log(N))", "relu/N"}) {
    CAPTURE(scoring);
    const auto [growing, fixed] = cache_errors(scoring);
    CHECK(fixed < 1e-13);
    if (std::string(scoring).find('N') == std::string::npos)
      CHECK(growing < 1e-13);
    else
      CHECK(growing > 1);  // the first row has one key instead of 20
  }
}

TEST_CASE("query heads in groups that read the same keys have outputs, gradients and statistics of keys that are repeated", "[language_model]") {
  const Index batch = 2, shared = 2, group = 3, rows = 5, keys = 7, width = 8;
  const Tensor q = randn({batch, shared * group, rows, width}, {1, 1}, f64).track();
  const Tensor k = randn({batch, shared, keys, width}, {1, 2}, f64).track(), v = randn({batch, shared, keys, width}, {1, 3}, f64).track();
  const auto outcome = [&](bool grouped) {
    const auto of_keys = [&](const Tensor& x) {
      if (grouped) return expand(reshape(x, {batch * shared, 1, keys, width}), {batch * shared, group, keys, width});
      return reshape(expand(unsqueeze(x, 2), {batch, shared, group, keys, width}), {batch, shared * group, keys, width});
    };
    const Shape of_queries = grouped ? Shape{batch * shared, group, rows, width} : q.shape();
    AttentionOptions options;
    options.scoring = nn::parse_scoring("x^3/sqrt(n)"), options.causal = true;
    options.stats = zeros({of_queries[0], of_queries[1], attention_stats}, f64);
    const Tensor y = reshape(attention(reshape(q, of_queries), of_keys(k), of_keys(v), options), q.shape());
    Tensors all = grad(sum(square(y)), {q, k, v});
    const Tensor stats = reshape(options.stats, {batch, shared * group, attention_stats});
    all.push_back(y.detach());
    for (const AttentionStat stat : {AttentionStat::fro2, AttentionStat::grad_a2}) all.push_back(select(stats, 2, static_cast<Index>(stat)));
    return all;
  };
  const Tensors grouped = outcome(true), repeated = outcome(false);
  for (std::size_t i = 0; i < repeated.size(); ++i) {
    CAPTURE(i);
    CHECK(difference(grouped[i], repeated[i]) < 1e-13);
  }
}

TEST_CASE("a loss of log_softmax, gather and a mask is cross_entropy of the rows that it keeps", "[language_model]") {
  const Tensor logits = randn({2, 6, 9}, {1, 1}, f64), targets = randint(0, 9, {2, 6}, {1, 2});
  const Tensor right = squeeze(gather(log_softmax(logits), -1, unsqueeze(targets, -1)), -1);
  const Tensor counts = expand(cast(greater_equal(arange(6), 4), DType::f64), right.shape());
  const double masked = (-sum(right * counts) / sum(counts)).item();
  CHECK(masked == Approx(cross_entropy(slice(logits, 1, 4, 6), slice(targets, 1, 4, 6)).item()).epsilon(1e-14));
}
