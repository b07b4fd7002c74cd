// A task of attention by the f32 kernels on bf16 tensors, where no products of packed bf16 are to be used: what it reads is widened into scratch
// memory, what it writes is rounded to nearest even.
#pragma once

#include "backends/common/views.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/parallel.h"
#include "core/backend.h"

namespace norma::cpu {

template <class Head>
void run(const AttentionKernel<Head>& kernel, Head& head) {
  head.work = scratch(Slot::attention_work, static_cast<std::size_t>(kernel.work(head)));
  kernel.run(head);
}

/// One head of a bf16 tensor as dense rows of floats in this task's scratch: what the f32 kernels read or write in its place, in place of
/// products of packed bf16. Stored bf16 is a head's q, k, v and their like; scores and statistics are f32 all the way.
class WideHead {
 public:
  WideHead(const View& x, Index b, Index h, float*& next)
      : head_(head_of<bf16>(x, b, h)),
        row_(x.layout.stride(2)),
        rows_(x.shape()[2]),
        width_(x.shape()[3]),
        wide_(next) {
    next += (rows_ * width_ + 15) / 16 * 16;
  }
  static Index size(const View& x) { return (x.shape()[2] * x.shape()[3] + 15) / 16 * 16; }
  float* read(Index first, Index count) const {
    widen_rows(count, width_, head_ + first * row_, row_, wide_ + first * width_);
    return wide_;
  }
  float* read() const { return read(0, rows_); }
  /// Asks for all rows: they lie far apart, where no hardware prefetcher finds them.
  void fetch(Index first, Index count) const {
    for (Index i = first; i < first + count; ++i)
      for (Index c = 0; c < width_; c += 32) __builtin_prefetch(head_ + i * row_ + c, 0, 2);
  }
  void fetch() const { fetch(0, rows_); }
  float* room() const { return wide_; }
  void write(Index first, Index count) const {
    narrow_rows(count, width_, wide_ + first * width_, head_ + first * row_, row_);
  }
  void write() const { write(0, rows_); }
  Index width() const { return width_; }

 private:
  bf16* head_;
  Index row_, rows_, width_;
  float* wide_;
};

inline void run_widened(const AttentionForward& a, Index b, Index h, AttentionHeadForward<float>& head,
                        const AttentionKernel<AttentionHeadForward<float>>& kernel) {
  using Wide = WideHead;
  float* next = scratch<float>(Slot::attention_wide, Wide::size(a.q) + Wide::size(a.k) + Wide::size(a.v) + Wide::size(a.out));
  const Wide q(a.q, b, h, next), k(a.k, b, h, next), v(a.v, b, h, next), out(a.out, b, h, next);
  const Index rows = head.row_end - head.row_begin;
  k.fetch(), v.fetch();
  head.q = q.read(head.row_begin, rows), head.q_row = q.width();
  head.k = k.read(), head.k_row = k.width();
  head.v = v.read(), head.v_row = v.width();
  head.out = out.room(), head.out_row = out.width();
  run(kernel, head);
  out.write(head.row_begin, rows);
}

inline void run_widened(const AttentionBackward& a, Index b, Index h, AttentionHeadBackward<float>& head,
                        const AttentionKernel<AttentionHeadBackward<float>>& kernel) {
  using Wide = WideHead;
  float* next = scratch<float>(Slot::attention_wide, 2 * (Wide::size(a.q) + Wide::size(a.k) + Wide::size(a.v)) + 2 * Wide::size(a.dout));
  const Wide q(a.q, b, h, next), k(a.k, b, h, next), v(a.v, b, h, next), dout(a.dout, b, h, next);
  const Wide dq(a.dq, b, h, next), dk(a.dk, b, h, next), dv(a.dv, b, h, next);
  for (const Wide* x : {&q, &k, &v, &dout}) x->fetch();
  head.q = q.read(), head.q_row = q.width();
  head.k = k.read(), head.k_row = k.width();
  head.v = v.read(), head.v_row = v.width();
  head.dout = dout.read(), head.dout_row = dout.width();
  if (head.normalize) {
    const Wide out(a.out, b, h, next);
    head.out = out.read(), head.out_row = out.width();
  }
  head.dq = dq.room(), head.dq_row = dq.width();
  head.dk = dk.room(), head.dk_row = dk.width();
  head.dv = dv.room(), head.dv_row = dv.width();
  run(kernel, head);
  if (!head.dq_part) dq.write();
  for (const Wide* x : {&dk, &dv}) x->write(head.key_begin, head.key_end - head.key_begin);
}

}  // namespace norma::cpu
