// Reductions in two stages of fixed order: pieces by blocks or threads, then the pieces of each output, many by a block. Sums in double or i64.
#include "backends/cuda/kernels/reduce.h"

#include "backends/cuda/kernels/block.h"

namespace norma::cuda {
namespace {

constexpr unsigned block_size = 128;

template <class T>
struct SumOf {
  using State = Accumulator<T>;
  NORMA_DEVICE State nothing() const { return 0; }
  NORMA_DEVICE State take(State s, T x, std::uint32_t) const { return s + convert<State>(x); }
  NORMA_DEVICE State join(State a, State b) const { return a + b; }
  template <class Out>
  NORMA_DEVICE Out result(State s) const { return convert<Out>(s); }
};
/// The extreme value and where it stands first; a NaN wins, the first of them.
template <class T>
struct ExtremeOf {
  using C = Compute<T, true>;
  struct State {
    C value;
    std::uint32_t at;  // none: nothing seen
  };
  static constexpr std::uint32_t none = 0xffffffffu;
  bool largest, position;
  NORMA_DEVICE State nothing() const { return {C{}, none}; }
  NORMA_DEVICE State take(State s, T x, std::uint32_t at) const { return join(s, {convert<C>(x), at}); }
  NORMA_DEVICE State join(State a, State b) const {
    if (a.at == none) return b;
    if (b.at == none) return a;
    if (b.at < a.at) {
      const State earlier = b;
      b = a, a = earlier;
    }
    const bool second = largest ? replaces<ReduceOp::max>(b.value, a.value) : replaces<ReduceOp::min>(b.value, a.value);
    return second ? b : a;
  }
  template <class Out>
  NORMA_DEVICE Out result(State s) const {
    return position ? convert<Out>(static_cast<std::int64_t>(s.at)) : convert<Out>(s.value);
  }
};

template <class F>
NORMA_DEVICE void write(const Reduction& r, const F& f, std::uint32_t o, typename F::State s) {
  std::int64_t at[2];
  r.kept.offsets(o, at);
  visit_dtype(r.out_dtype, [&](auto tag) {
    using Out = typename decltype(tag)::type;
    static_cast<Out*>(r.out)[at[1]] = f.template result<Out>(s);
  });
}

/// [begin, end) of the reduced elements in this part.
NORMA_DEVICE void part_range(const Reduction& r, std::uint32_t part, std::uint32_t& begin, std::uint32_t& end) {
  const std::uint32_t size = (r.reduced.size + r.parts - 1) / r.parts;
  begin = part * size;
  end = begin + size < r.reduced.size ? begin + size : r.reduced.size;
}

/// f over elements i, i + step, ... below end, in this order, as long as there are `at_once` of them: a thread waits for so many together.
template <unsigned at_once, class F, class T, class Offset>
NORMA_DEVICE void take_each(const F& f, typename F::State& mine, const T* x, std::uint32_t& i, std::uint32_t end, std::uint32_t step, Offset offset) {
  for (; i < end && end - i > (at_once - 1) * step; i += at_once * step) {
    T some[at_once];
    NORMA_UNROLL
    for (std::uint32_t k = 0; k < at_once; ++k) some[k] = x[offset(i + k * step)];
    NORMA_UNROLL
    for (std::uint32_t k = 0; k < at_once; ++k) mine = f.take(mine, some[k], i + k * step);
  }
}

/// f over the reduced elements i, i + step, ... below end, in this order.
template <class F, class T>
NORMA_DEVICE typename F::State take_all(const Reduction& r, const F& f, const T* x, std::uint32_t i, std::uint32_t end, std::uint32_t step) {
  typename F::State mine = f.nothing();
  if (r.reduced.rank != 1) {
    const auto offset = [&](std::uint32_t j) { return r.reduced.offset(j); };
    take_each<8>(f, mine, x, i, end, step, offset);
    take_each<1>(f, mine, x, i, end, step, offset);
    return mine;
  }
  // Along one axis, as for a bias's gradient: more of a narrow type, so that bytes enough are on their way, and the rest together, too.
  constexpr std::uint32_t at_once = sizeof(T) < 4 ? 16 : 8;
  const std::int64_t stride = r.reduced.stride[0][0];
  take_each<at_once>(f, mine, x, i, end, step, [=](std::uint32_t j) { return j * stride; });
  if (i >= end) return mine;
  T some[at_once];
  NORMA_UNROLL
  for (std::uint32_t k = 0; k < at_once; ++k) some[k] = x[(i + k * step < end ? i + k * step : end - 1) * stride];
  NORMA_UNROLL
  for (std::uint32_t k = 0; k < at_once; ++k)
    if (i + k * step < end) mine = f.take(mine, some[k], i + k * step);
  return mine;
}

template <class F, class T>
NORMA_KERNEL void reduce_by_block(Reduction r, F f) {
  using State = typename F::State;
  std::uint32_t o = block_id().x, part = block_id().y, begin, end;
  part_range(r, part, begin, end);
  std::int64_t at[2];
  r.kept.offsets(o, at);
  const T* x = static_cast<const T*>(r.x) + at[0];
  const State mine = take_all(r, f, x, begin + thread_id(), end, block_size);
  const State all =
      join_block(mine, reinterpret_cast<State*>(shared_memory()), [&](const State& a, const State& b) { return f.join(a, b); });
  if (thread_id() != 0) return;
  if (r.parts == 1)
    write(r, f, o, all);
  else
    static_cast<State*>(r.partial)[std::int64_t{o} * r.parts + part] = all;
}

template <class F, class T>
NORMA_KERNEL void reduce_by_thread(Reduction r, F f) {
  using State = typename F::State;
  const std::uint32_t o = block_id().x * block_size + thread_id(), part = block_id().y;
  if (o >= r.kept.size) return;
  std::uint32_t begin, end;
  part_range(r, part, begin, end);
  std::int64_t at[2];
  r.kept.offsets(o, at);
  const T* x = static_cast<const T*>(r.x) + at[0];
  const State mine = take_all(r, f, x, begin, end, 1);
  if (r.parts == 1)
    write(r, f, o, mine);
  else
    static_cast<State*>(r.partial)[std::int64_t{o} * r.parts + part] = mine;
}

/// Few parts, one after the other by a thread; else by a block.
constexpr std::uint32_t many_parts = 64;

template <class F>
NORMA_KERNEL void join_parts(Reduction r, F f) {
  const std::uint32_t o = block_id().x * block_size + thread_id();
  if (o >= r.kept.size) return;
  const auto* partial = static_cast<const typename F::State*>(r.partial) + std::int64_t{o} * r.parts;
  typename F::State all = partial[0];
  for (std::uint32_t i = 1; i < r.parts; ++i) all = f.join(all, partial[i]);
  write(r, f, o, all);
}

template <class F>
NORMA_KERNEL void join_many_parts(Reduction r, F f) {
  using State = typename F::State;
  const std::uint32_t o = block_id().x;
  const auto* partial = static_cast<const State*>(r.partial) + std::int64_t{o} * r.parts;
  State mine = f.nothing();
  for (std::uint32_t i = thread_id(); i < r.parts; i += block_size) mine = f.join(mine, partial[i]);
  const State all = join_block(mine, reinterpret_cast<State*>(shared_memory()), [&](const State& a, const State& b) { return f.join(a, b); });
  if (thread_id() == 0) write(r, f, o, all);
}

template <class F, class T>
void run(void* stream, const Reduction& r, F f) {
  static_assert(sizeof(typename F::State) <= partial_bytes);
  const unsigned by_thread = (r.kept.size + block_size - 1) / block_size;
  const std::size_t states = block_size * sizeof(typename F::State);
  if (r.by_thread)
    launch(stream, {by_thread, r.parts}, block_size, 0, reduce_by_thread<F, T>, r, f);
  else
    launch(stream, {r.kept.size, r.parts}, block_size, states, reduce_by_block<F, T>, r, f);
  if (r.parts >= many_parts)
    launch(stream, {r.kept.size}, block_size, states, join_many_parts<F>, r, f);
  else if (r.parts > 1)
    launch(stream, {by_thread}, block_size, 0, join_parts<F>, r, f);
}

template <class T>
NORMA_KERNEL void scan_kernel(Scan s) {
  using A = Accumulator<T>;
  A* space = reinterpret_cast<A*>(shared_memory());
  const unsigned t = thread_id();
  std::int64_t at[2];
  s.lines.offsets(block_id().x, at);
  const T* x = static_cast<const T*>(s.x) + at[0];
  T* out = static_cast<T*>(s.out) + at[1];
  A before = 0;
  for (std::int64_t first = 0; first < s.n; first += block_size) {
    const std::int64_t j = first + t;
    A sum = j < s.n ? convert<A>(x[j * s.x_step]) : A{0};
    space[t] = sum;
    block_barrier();
    for (unsigned distance = 1; distance < block_size; distance *= 2) {
      if (t >= distance) sum += space[t - distance];
      block_barrier();
      space[t] = sum;
      block_barrier();
    }
    if (j < s.n) out[j * s.out_step] = convert<T>(before + sum);
    before += space[block_size - 1];
    block_barrier();
  }
}

}  // namespace

void reduce_elements(void* stream, const Reduction& r) {
  visit_dtype(r.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (r.op == Reducer::sum) return run<SumOf<T>, T>(stream, r, {});
    const bool largest = r.op == Reducer::max || r.op == Reducer::argmax;
    run<ExtremeOf<T>, T>(stream, r, {largest, r.op == Reducer::argmax || r.op == Reducer::argmin});
  });
}

void scan_lines(void* stream, const Scan& s) {
  visit_dtype(s.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, {s.lines.size}, block_size, block_size * sizeof(Accumulator<T>), scan_kernel<T>, s);
  });
}

}  // namespace norma::cuda
