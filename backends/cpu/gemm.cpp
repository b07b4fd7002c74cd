// Blocking of matrix products: which part of C a task computes, and in which pieces it walks through k. The pieces follow from the
// sizes alone, so that the bits of the result do not depend on the number of threads. The arithmetic is in kernels/gemm.cpp.
//
// Three ways to cut the work:
//   few:   few rows; every task packs its own columns of B (few_rows.h), or, of a row or two, reads them where they lie (thin).
//          Gradients of weights from few rows: it packs its own rows of A, and reads B where it lies.
//   wide:  tasks are blocks of C; B is packed once, in parallel, and read by all. Y = X W^T and dX = dY W.
//   long:  k is much longer than C is large (dW = dY^T X): k is cut in slices too, every task packs what it reads, and
//          the slices' sums are added up in order.
#include "backends/cpu/gemm.h"

#include <algorithm>
#include <atomic>

#include "backends/cpu/cut_product.h"
#include "backends/cpu/few_rows.h"
#include "backends/cpu/gemm_blas.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

using std::int64_t;

std::atomic<GemmProvider> chosen_provider{GemmProvider::own};

/// Whether C is small beside k, as the gradient of a weight is.
bool is_long(int64_t m, int64_t n, int64_t k) { return k >= 1024 && m < 2048 && k >= 2 * std::max(m, n); }

/// Whether slices pay: every element of A and B is cut, beside the tiles or before them, which the product has to make up for, as it has for handing
/// out the work twice. The sizes alone decide, not where the operands lie. Measured, `norma bench gemm --shapes`, two threads.
bool slices_pay(int64_t m, int64_t n, int64_t k) {
  if (k < 24) return false;
  if (is_long(m, n, k)) return m * n >= 40 * (m + n) + 2'000'000 / k;
  return m * n >= 112 * n + 30 * m + 6'000'000 / k;
}

template <class T>
const GemmTable<T>& table(GemmProvider provider, int64_t m, int64_t n, int64_t k) {
  if constexpr (sizeof(T) == 4) {
    const GemmTable<float>* sliced = NORMA_BF16_KERNELS(sliced_gemm).f32;
    if (sliced && ((provider == GemmProvider::slices && k > 0) || (provider == GemmProvider::own && slices_pay(m, n, k)))) return *sliced;
    return NORMA_KERNELS(gemm_kernels).f32;
  } else {
    return NORMA_KERNELS(gemm_kernels).f64;
  }
}

template <class T>
struct Product {
  int64_t m, n, k;
  Matrix<const T> a, b;
  bool gelu_b = false;
  T* c;
  int64_t ldc;
  bool accumulate = false;
  const Epilogue<T>* epilogue = nullptr;
  T* row_sums = nullptr;
};

/// [i0, i1) x [j0, j1) of C over [k0, k1).
struct Region {
  int64_t i0, i1, j0, j1, k0, k1;
};

/// The fixed cut of a product: grids of rows, columns and slices of k.
struct Plan {
  int64_t rows = 1, columns = 1, slices = 1;
  bool share_b = true;
  bool thin = false;    // B is read where it lies
  int64_t k_piece = 1;  // k advances in pieces of at most this many
  int64_t block_rows = 1;
  bool packs_ahead = false;  // the rows of the next block, while one computes

  int64_t tasks() const { return rows * columns * slices; }
};

/// Whether rows of A are packed, not read where they lie.
template <class T>
bool packs_a(const GemmTable<T>& t, const Product<T>& x) {
  return x.a.col != 1 || x.row_sums || t.sliced;
}
/// Whether whole panels of B are read where they lie, once no task shares what is packed: dense rows, of gradients of weights.
template <class T>
bool reads_b_in_place(const GemmTable<T>& t, const Product<T>& x) {
  return !x.epilogue && !x.gelu_b && x.b.col == 1 && t.reads_in_place(x.b.row);
}

/// Rows that a panel of B passes by: some passes of it through the first-level cache; slices are quick to multiply, so that more rows have to
/// share what a panel costs on its way from farther caches.
template <class T>
int64_t rows_of_panel(const GemmTable<T>& t, int64_t k) {
  return t.sliced ? std::clamp<int64_t>(131072 / std::max<int64_t>(1, std::min<int64_t>(k, 384)), 96, 384) / 96 * 96 : 96 / t.mr * t.mr;
}

template <class T>
Plan make_plan(const GemmTable<T>& t, const Product<T>& x) {
  constexpr int64_t size = sizeof(T);
  // A library's bits follow from the sizes of a block, so that those must not follow from the number of threads.
  const int64_t workers = gemm_provider() == GemmProvider::openblas ? 8 : threads();
  const int64_t m = x.m, n = x.n, k = x.k;
  Plan p;
  // A panel of B stays in the first-level cache while rows pass by, if it is narrow enough for that; the sliced blocks walk through k
  // in pieces of their own.
  p.k_piece = t.sliced ? 384 : std::clamp<int64_t>(24 * 1024 / (t.nr * size), 256, 384);
  p.block_rows = rows_of_panel(t, k);
  const int64_t work = m * n * k;
  p.thin = m <= t.thin_rows && !packs_a(t, x) && !x.gelu_b && (x.b.row == 1 || x.b.col == 1) && gemm_provider() != GemmProvider::openblas;
  if (p.thin) p.share_b = false;
  if (work <= int64_t{1} << 17) return p;
  const auto pack_ahead = [&] {
    if (t.sliced) p.packs_ahead = true, p.block_rows = 96;
  };
  const int64_t most = std::max<int64_t>(1, work >> 18);  // a task is worth some microseconds
  const auto cut_c = [&](int64_t tasks) { cut_further(ceil_div(std::min(tasks, most), p.slices), m, n, t.mr, t.nr, p.rows, p.columns); };
  if (is_long(m, n, k)) {
    p.share_b = false;
    if (t.sliced) p.k_piece = 256;  // C of a task stays in the second-level cache beside what is packed
    p.rows = ceil_div(m, 768);
    p.columns = ceil_div(n, 384);
    const int64_t want = std::min<int64_t>(8, most);
    p.slices = std::clamp<int64_t>(ceil_div(want, p.rows * p.columns), 1, k / 256);
    cut_c(workers);
    pack_ahead();
    return p;
  }
  if (!packs_a(t, x) && few_rows(m, k, size)) {
    const FewRows few(m, n, k, t.mr, t.nr, workers);
    p.share_b = false, p.rows = few.rows, p.columns = few.columns;
    return p;
  }
  if (packs_a(t, x) && reads_b_in_place(t, x) && n >= t.nr && k * n * size <= int64_t{1} << 20) {  // the gradient of a weight
    p.share_b = false;
    p.rows = std::clamp<int64_t>(m / (2 * t.mr) / 2 * 2, 1, std::min<int64_t>(std::max<int64_t>(n < 4 * t.nr ? 1 : 8, workers), most));
    return p;
  }
  p.rows = ceil_div(m, p.block_rows);
  if (n * t.packed(k) * size <= int64_t{1} << 20) pack_ahead();  // B stays in the second-level cache beside two blocks of rows
  if (p.rows > 8) p.rows = ceil_div(p.rows, 8) * 8;  // even shares for 2, 4 and 8 threads
  // Every task packs its rows of A, so that slices want few and large ones.
  cut_c(std::max<int64_t>(t.sliced ? std::clamp<int64_t>(4 * workers, 8, 16) : 16, 2 * workers));
  return p;
}

template <class T>
Epilogue<T> shifted(const Epilogue<T>& e, int64_t i, int64_t j) {
  const int64_t offset = i * e.ld + j;
  const auto move = [](auto* p, int64_t by) { return p ? p + by : p; };
  return {move(e.bias, j), move(e.pre, offset), e.gelu, move(e.gelu_pre, offset), move(e.residual, offset), e.ld, move(e.gelu_of_pre, i * e.ld_of_gelu + j),
          e.ld_of_gelu};
}

template <class T>
Matrix<const T> at(Matrix<const T> x, int64_t i, int64_t j) {
  return {x.data + i * x.row + j * x.col, x.row, x.col};
}

template <class T>
class Run {
 public:
  Run(const Product<T>& product, bool parallel)
      : x_(product), plan_(make_plan(t_, x_)), parallel_(parallel) {}

  void operator()() {
    if (x_.m == 0 || x_.n == 0) return;
    if (plan_.share_b && provider_ != GemmProvider::openblas) pack_shared();
    if (plan_.slices > 1) return run_slices();
    each(plan_.tasks(), [&](int64_t i) {
      const Region r = region(i);
      compute(r, x_.c + r.i0 * x_.ldc + r.j0, x_.ldc, x_.accumulate, x_.epilogue, x_.row_sums);
    });
  }

 private:
  template <class Body>
  void each(int64_t count, Body&& body) {
    if (parallel_) return parallel_tasks(count, body);
    for (int64_t i = 0; i < count; ++i) body(i);
  }

  Region region(int64_t task) const {
    const int64_t s = task / (plan_.rows * plan_.columns), i = task / plan_.columns % plan_.rows,
                  j = task % plan_.columns;
    return {cut(x_.m, t_.mr, plan_.rows, i),    cut(x_.m, t_.mr, plan_.rows, i + 1),
            cut(x_.n, t_.nr, plan_.columns, j), cut(x_.n, t_.nr, plan_.columns, j + 1),
            cut(x_.k, t_.k_unit, plan_.slices, s), cut(x_.k, t_.k_unit, plan_.slices, s + 1)};
  }

  int64_t pieces(int64_t k) const { return std::max<int64_t>(1, ceil_div(k, plan_.k_piece)); }

  void pack_shared() {
    const int64_t panels = ceil_div(x_.n, t_.nr), count = pieces(x_.k);
    T* all = scratch<T>(Slot::product_shared_b, std::max<int64_t>(1, t_.packed(x_.k)) * panels * t_.nr);
    shared_ = all;
    const auto pack = [&](int64_t piece, int64_t from, int64_t to) {
      const int64_t k0 = cut(x_.k, t_.k_unit, count, piece), k1 = cut(x_.k, t_.k_unit, count, piece + 1);
      const int64_t j0 = from * t_.nr, j1 = std::min(x_.n, to * t_.nr);
      t_.pack_b(k1 - k0, j1 - j0, at(x_.b, k0, j0), x_.gelu_b, all + t_.packed(k0) * panels * t_.nr + j0 * t_.packed(k1 - k0));
    };
    const int64_t group = std::max<int64_t>(1, 32768 / (plan_.k_piece * t_.nr)), groups = ceil_div(panels, group);
    each(x_.k * x_.n <= 32768 ? 1 : count * groups, [&](int64_t i) {
      if (x_.k * x_.n <= 32768)
        for (int64_t piece = 0; piece < count; ++piece) pack(piece, 0, panels);
      else
        pack(i / groups, i % groups * group, std::min(panels, (i % groups + 1) * group));
    });
  }

  /// Each slice of k into its own [m, n] array, then their sum in order.
  void run_slices() {
    const int64_t size = x_.m * x_.n, step = size + (x_.row_sums ? x_.m : 0);
    T* partial = scratch<T>(Slot::product_partial, plan_.slices * step);
    each(plan_.tasks(), [&](int64_t i) {
      const Region r = region(i);
      T* mine = partial + i / (plan_.rows * plan_.columns) * step;
      compute(r, mine + r.i0 * x_.n + r.j0, x_.n, false, nullptr, x_.row_sums ? mine + size : nullptr);
    });
    const int64_t rows = std::max<int64_t>(1, 32768 / x_.n);
    each(ceil_div(x_.m, rows), [&](int64_t i) {
      const int64_t i0 = i * rows, i1 = std::min(x_.m, i0 + rows);
      if (!x_.accumulate && !x_.epilogue) {
        for (int64_t row = i0; row < i1; ++row) t_.combine(plan_.slices, x_.n, partial + row * x_.n, step, x_.c + row * x_.ldc);
        return;
      }
      T* sums = partial + i0 * x_.n;
      t_.combine(plan_.slices, (i1 - i0) * x_.n, sums, step, sums);
      Epilogue<T> here;
      if (x_.epilogue) here = shifted(*x_.epilogue, i0, 0);
      t_.finish(i1 - i0, x_.n, sums, x_.n, x_.c + i0 * x_.ldc, x_.ldc, x_.accumulate, x_.epilogue ? &here : nullptr);
    });
    if (x_.row_sums) t_.combine(plan_.slices, x_.m, partial + size, step, x_.row_sums);
  }

  void compute(const Region& r, T* c, int64_t ldc, bool accumulate, const Epilogue<T>* epilogue, T* row_sums) {
    if (r.i0 == r.i1 || r.j0 == r.j1) return;
    Epilogue<T> here_epilogue;
    if (epilogue) here_epilogue = shifted(*epilogue, r.i0, r.j0);
    if (r.j0 > 0) row_sums = nullptr;
    if (row_sums) std::fill(row_sums + r.i0, row_sums + r.i1, T{0});
    if (provider_ == GemmProvider::openblas && library(r, c, ldc, accumulate, row_sums)) {
      if (epilogue) t_.finish(r.i1 - r.i0, r.j1 - r.j0, c, ldc, c, ldc, false, &here_epilogue);
      return;
    }
    const int64_t n = r.j1 - r.j0, count = pieces(r.k1 - r.k0), blocks = ceil_div(r.i1 - r.i0, plan_.block_rows);
    // Rows that are packed ahead lie in two rooms in turn.
    const int64_t room = t_.packed(std::min(r.k1 - r.k0, plan_.k_piece + t_.k_unit)) * ceil_div(plan_.block_rows, t_.mr) * t_.mr;
    T* rooms = plan_.packs_ahead ? scratch<T>(Slot::product_a, std::max<int64_t>(1, 2 * room)) : nullptr;
    const auto k_begin = [&](int64_t piece) { return r.k0 + cut(r.k1 - r.k0, t_.k_unit, count, piece); };
    const auto step = [&](int64_t s) {  // rows of A, pieces of k outside
      Upcoming<T> x;
      const int64_t piece = s / blocks, i = r.i0 + s % blocks * plan_.block_rows, k0 = k_begin(piece);
      x.a = at(x_.a, i, k0), x.m = std::min(plan_.block_rows, r.i1 - i), x.k = k_begin(piece + 1) - k0;
      x.tiles = rooms ? rooms + s % 2 * room : nullptr;
      x.row_sums = row_sums ? row_sums + i : nullptr;
      return x;
    };
    const int64_t in_place = !shared_ && reads_b_in_place(t_, x_) ? n / t_.nr * t_.nr : 0, packed = n - in_place;  // columns of B
    const T* panels = nullptr;
    for (int64_t s = 0; s < count * blocks; ++s) {
      const Upcoming<T> here = step(s);
      const int64_t piece = s / blocks, i = s % blocks * plan_.block_rows, k0 = k_begin(piece);
      const bool last = piece + 1 == count, add = accumulate || piece > 0;
      Epilogue<T> of_rows;
      if (epilogue && last) of_rows = shifted(here_epilogue, i, 0);
      const Epilogue<T>* const rows = epilogue && last ? &of_rows : nullptr;
      if (plan_.thin) {
        t_.thin(here.m, n, here.k, here.a, at(x_.b, k0, r.j0), c + i * ldc, ldc, add, rows);
        continue;
      }
      if (shared_) {
        panels = shared_ + t_.packed(k0) * ceil_div(x_.n, t_.nr) * t_.nr + r.j0 * t_.packed(here.k);
      } else if (i == 0 && packed > 0) {
        T* mine = scratch<T>(Slot::product_b, std::max<int64_t>(1, t_.packed(here.k)) * ceil_div(packed, t_.nr) * t_.nr);
        t_.pack_b(here.k, packed, at(x_.b, k0, r.j0 + in_place), x_.gelu_b, mine);
        panels = mine;
      }
      const Upcoming<T> next = s + 1 < count * blocks ? step(s + 1) : Upcoming<T>{};
      const Tiles<T> tiles = rooms && s > 0 ? packed_tiles(here) : tiles_of(here);
      const auto multiply = [&](int64_t j, int64_t columns, Panels<T> b, const Upcoming<T>& upcoming) {
        t_.block(here.m, columns, here.k, tiles, b, c + i * ldc + j, ldc, add, rows, upcoming);
      };
      if (in_place > 0) multiply(0, in_place, {at(x_.b, k0, r.j0).data, t_.nr, x_.b.row, i == 0}, packed > 0 ? Upcoming<T>{} : next);
      if (packed > 0) multiply(in_place, packed, t_.packed_panels(panels, here.k), next);
    }
  }

  Tiles<T> packed_tiles(const Upcoming<T>& x) const { return {x.tiles, t_.mr * t_.packed(x.k), 1, t_.mr}; }
  /// Rows of A are read where they lie if they are dense; otherwise they are packed.
  Tiles<T> tiles_of(Upcoming<T> x) {
    if (x.a.col == 1 && !x.row_sums && !t_.sliced) return {x.a.data, t_.mr * x.a.row, x.a.row, 1};
    if (!x.tiles) x.tiles = scratch<T>(Slot::product_a, std::max<int64_t>(1, t_.packed(x.k)) * ceil_div(x.m, t_.mr) * t_.mr);
    t_.pack_a(x.m, x.k, x.a, x.tiles, x.row_sums);
    return packed_tiles(x);
  }

  bool library(const Region& r, T* c, int64_t ldc, bool accumulate, T* row_sums) {
    const int64_t m = r.i1 - r.i0, n = r.j1 - r.j0, k = r.k1 - r.k0;
    const Matrix<const T> a = at(x_.a, r.i0, r.k0);
    Matrix<const T> b = at(x_.b, r.k0, r.j0);
    if (x_.gelu_b) {  // the panels of nr columns, each [k][nr], are nr-wide row-major matrices
      T* panels = scratch<T>(Slot::product_b, std::max<int64_t>(1, k) * ceil_div(n, t_.nr) * t_.nr);
      t_.pack_b(k, n, b, true, panels);
      for (int64_t j = 0; j < n; j += t_.nr)
        if (!blas_product<T>(m, std::min(t_.nr, n - j), k, a, {panels + j * k, t_.nr, 1}, c + j, ldc, accumulate))
          return false;
    } else if (!blas_product<T>(m, n, k, a, b, c, ldc, accumulate)) {
      return false;
    }
    if (row_sums)
      for (int64_t k0 = 0; k0 < k; k0 += plan_.k_piece)
        tiles_of({at(a, 0, k0), m, std::min(plan_.k_piece, k - k0), nullptr, row_sums + r.i0});
    return true;
  }

  const Product<T> x_;
  const GemmProvider provider_ = chosen_provider;
  const GemmTable<T>& t_ = table<T>(provider_, x_.m, x_.n, x_.k);
  const Plan plan_;
  const bool parallel_;
  const T* shared_ = nullptr;
};

/// Whether products of a batch are multiplied where they lie: packing would cost more. k is one piece of any plan's then, so that the sums
/// are those of a single product.
bool are_small(int64_t m, int64_t n, int64_t k, bool dense_rows_of_b) {
  const GemmProvider provider = gemm_provider();
  if (k > 256 || (provider != GemmProvider::own && provider != GemmProvider::fma)) return false;
  int64_t most = 400;
  if (dense_rows_of_b && n >= 4)
    most = m == 1 && n >= 8 ? 16384 : 2048;
  else if (m == 1 || n < 8)  // of a panel most would be padding
    most = 1024;
  return m * n * k <= most;
}

}  // namespace

template <class T>
void gemm(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, int64_t ldc, bool accumulate,
          const Epilogue<T>& e) {
  const bool plain = !e.bias && !e.pre && !e.gelu && !e.gelu_pre && !e.residual;
  Run<T>({m, n, k, a, b, false, c, ldc, accumulate, plain ? nullptr : &e, nullptr}, true)();
}

template <class T>
void gemm_with_row_sums(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, bool gelu_b, T* c,
                        int64_t ldc, T* row_sums) {
  Run<T>({m, n, k, a, b, gelu_b, c, ldc, false, nullptr, row_sums}, true)();
}

template <class T>
void gemm_batched(int64_t count, const int64_t* a_offset, const int64_t* b_offset, const int64_t* c_offset, int64_t m,
                  int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, int64_t ldc) {
  const auto one = [&](int64_t i, bool parallel) {
    Run<T>({m,
            n,
            k,
            {a.data + a_offset[i], a.row, a.col},
            {b.data + b_offset[i], b.row, b.col},
            false,
            c + c_offset[i],
            ldc,
            false,
            nullptr,
            nullptr},
           parallel)();
  };
  const int64_t work = std::max<int64_t>(1, m * n * k);
  if (count < 8 && work >= int64_t{1} << 22) {  // few large ones: each in parallel
    for (int64_t i = 0; i < count; ++i) one(i, true);
    return;
  }
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 18) / work);
  if (are_small(m, n, k, b.col == 1)) {
    const auto multiply = NORMA_KERNELS(small_products).template of<T>();
    return parallel_for(count, std::min<int64_t>(grain, 4096), [&](int64_t begin, int64_t end) {
      multiply(end - begin, a_offset + begin, b_offset + begin, c_offset + begin, m, n, k, a, b, c, ldc);
    });
  }
  parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) one(i, false);
  });
}

void set_gemm_provider(GemmProvider provider) { chosen_provider = provider; }
GemmProvider gemm_provider() { return chosen_provider; }

#define NORMA_INSTANCES(T)                                                                                            \
  template void gemm<T>(int64_t, int64_t, int64_t, Matrix<const T>, Matrix<const T>, T*, int64_t, bool,               \
                        const Epilogue<T>&);                                                                          \
  template void gemm_with_row_sums<T>(int64_t, int64_t, int64_t, Matrix<const T>, Matrix<const T>, bool, T*, int64_t, \
                                      T*);                                                                            \
  template void gemm_batched<T>(int64_t, const int64_t*, const int64_t*, const int64_t*, int64_t, int64_t, int64_t,   \
                                Matrix<const T>, Matrix<const T>, T*, int64_t);
NORMA_INSTANCES(float)
NORMA_INSTANCES(double)

}  // namespace norma::cpu
