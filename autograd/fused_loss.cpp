// Losses: cross-entropy (class indices or soft targets, label smoothing) and mean squared error.
#include <limits>

#include "autograd/fused_util.h"

namespace norma {

namespace {

Index rows_of(const Tensor& logits) { return logits.numel() / logits.size(-1); }

void check_targets(const Tensor& logits, const Tensor& targets, double label_smoothing) {
  check_floating("cross_entropy", logits, "logits");
  check_present("cross_entropy", targets, "targets");
  if (logits.rank() == 0 || logits.numel() == 0) {
    fail("cross_entropy: logits {} hold no row; expected [..., classes]", logits.shape());
  }
  if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
    fail("cross_entropy: label_smoothing = {} must be in [0, 1]", label_smoothing);
  }
  const Shape rows = logits.shape().without(-1);
  const bool soft = is_floating(targets.dtype());
  if (!soft && targets.dtype() != DType::i64) {
    fail("cross_entropy: targets are {}; give i64 indices or floating probabilities", targets.dtype());
  }
  if (targets.shape() != (soft ? logits.shape() : rows)) {
    fail("cross_entropy: targets {} {} do not fit logits {}; expected i64 {} or floating {}", targets.dtype(),
         targets.shape(), logits.shape(), rows, logits.shape());
  }
  check_same_device("cross_entropy", logits, targets);
  if (soft) return;
  const Index bad = first_outside(targets, logits.size(-1));
  if (bad >= 0) {
    const Index value = element_at(targets, bad);
    fail("cross_entropy: target {} at row {} is outside 0..{}{}", value, bad, logits.size(-1) - 1,
         value >= 0 ? "" : "; to leave rows out, give them target 0, and 0 in a mask [..., 1]: "
                           "sum(mask * gather(log_softmax(logits), -1, unsqueeze(targets, -1))) / -sum(mask)");
  }
}

/// sum_c t_c log p_c over all rows. A class without a share adds 0 even where its logit is -inf.
Tensor weighted_sum(const Tensor& shares, const Tensor& log_p) {
  const Tensor none = logical_and(equal(shares, 0), equal(log_p, -std::numeric_limits<double>::infinity()));
  return sum(shares * where(none, 0, log_p));
}

Tensor cross_entropy_composite(const Tensor& logits, const Tensor& targets, double smoothing) {
  const Tensor wide = fused::widen(logits), log_p = log_softmax(wide);
  const Index classes = wide.size(-1), rows = rows_of(wide);
  const double rest = 1 - smoothing, each = smoothing / static_cast<double>(classes);
  Tensor total;  // sum over rows of sum_c t_c log p_c
  if (is_floating(targets.dtype())) {
    const Tensor given = fused::narrow(targets, wide.dtype());
    total = weighted_sum(smoothing == 0 ? given : given * rest + each, log_p);
  } else {
    if (rest != 0) total = rest * sum(gather(reshape(log_p, Shape{rows, classes}), 1, reshape(targets, Shape{rows, 1})));
    if (each != 0) total = total ? total + sum(log_p) * each : sum(log_p) * each;
  }
  return total * (-1.0 / static_cast<double>(rows));
}

struct Rows {
  Tensor logits, targets;  // [rows, classes]; targets the same, or [rows]
};
Rows as_rows(std::span<const Tensor> in) {
  const Tensor z = fused::as_matrix(in[0]);
  return {z, is_floating(in[1].dtype()) ? fused::as_matrix(in[1]) : reshape(in[1].detach(), Shape{z.size(0)})};
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, double label_smoothing) {
  check_targets(logits, targets, label_smoothing);
  const bool wanted = grad_enabled() && logits.tracked();
  const double per_row = 1.0 / static_cast<double>(rows_of(logits));

  Fused op;
  op.name = "cross_entropy";
  op.composite = [=](std::span<const Tensor> in) { return cross_entropy_composite(in[0], in[1], label_smoothing); };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const auto [z, t] = as_rows(in);
    const Place wide{wide_of(z.dtype()), z.device()};
    const Tensor loss = empty({z.size(0)}, wide), sums = wanted ? empty({z.size(0), 2}, wide) : Tensor();
    if (!backend_of(z).cross_entropy({z.view(), t.view(), loss.view(), label_smoothing, view_of(sums)})) return Tensor();
    extra = {sums};
    return sum(loss) * per_row;
  };
  op.vjp = [=](const Ctx& ctx, std::span<const Tensor> in, const Tensor&, const Tensors& extra,
               const Tensor& g) -> Tensors {
    if (ctx.needs(1) || !extra[0]) return {};
    const auto [z, t] = as_rows(in);
    const Tensor dlogits = empty(z.shape(), place_of(z)), scale = g * per_row;
    if (!backend_of(z).cross_entropy_backward({z.view(), t.view(), extra[0].view(), scale.view(), dlogits.view(), label_smoothing})) return {};
    return {reshape(dlogits, in[0].shape()), Tensor()};
  };
  return norma::apply(op, {logits, targets});
}

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  check_floating("mse_loss", x);
  check_present("mse_loss", target);
  if (x.shape() != target.shape())
    fail("mse_loss: shapes {} and {} differ; reshape or expand one", x.shape(), target.shape());
  check_same_place("mse_loss", x, target);
  return mean(square(fused::widen(x) - fused::widen(target)));
}

}  // namespace norma
