// The reference backend's element-wise verbs and random draws.

#include "backends/common/draws.h"
#include "backends/reference/reference.h"
#include "backends/reference/walk.h"

namespace norma {

using namespace reference;

void ReferenceBackend::copy(const View& in, const View& out) {
  typed(in, [&]<class From>(From) {
    typed(out, [&]<class To>(To) {
      each(out.shape(), [&](const Tuple& i) { at<To>(out, i) = convert<To>(at<From>(in, i)); });
    });
  });
}

void ReferenceBackend::fill(double value, const View& out) {
  typed(out, [&]<class T>(T) { each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = convert<T>(value); }); });
}

void ReferenceBackend::unary(UnaryOp op, const View& x, const View& out, double parameter) {
  typed(x, [&]<class T>(T) {
    with_unary(op, [&](auto f) {
      each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = apply_unary(f, at<T>(x, i), parameter); });
    });
  });
}

void ReferenceBackend::binary(BinaryOp op, const View& a, const View& b, const View& out) {
  typed(a, [&]<class T>(T) {
    with_binary(op, [&](auto f) {
      using Out = std::conditional_t<std::is_same_v<decltype(f(0.0, 0.0)), bool>, bool, T>;
      each(out.shape(), [&](const Tuple& i) { at<Out>(out, i) = apply_binary<Out>(f, at<T>(a, i), at<T>(b, i)); });
    });
  });
}

void ReferenceBackend::where(const View& condition, const View& a, const View& b, const View& out) {
  typed(out, [&]<class T>(T) {
    each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = at<bool>(condition, i) ? at<T>(a, i) : at<T>(b, i); });
  });
}

void ReferenceBackend::random(RandomKind kind, RandomStream stream, double p, const View& out) {
  const auto draw = [&](std::uint64_t i) -> double {
    switch (kind) {
      case RandomKind::uniform:
        return uniform_from(stream.word(i));
      case RandomKind::keep:
        return keeps(stream.word(i), drop_threshold(p)) ? keep_scale(p) : 0;
      default: {
        double pair[2];
        normal_pair(stream.word(i & ~std::uint64_t{1}), stream.word(i | 1), pair[0], pair[1]);
        return pair[i & 1];
      }
    }
  };
  typed(out, [&]<class T>(T) {
    std::uint64_t i = 0;
    each(out.shape(), [&](const Tuple& place) { at<T>(out, place) = convert<T>(draw(i++)); });
  });
}

}  // namespace norma
