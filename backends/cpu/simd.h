// One vector register of floats or doubles, written with the compiler's vector extension: the same source is SSE2 or NEON
// (4 floats), AVX2 (8) and AVX-512 (16). + - * / and comparisons are the built-in ones; only the fused multiply-add needs to
// know the instruction set (nothing is contracted by itself: -ffp-contract=off).
// Include it only from backends/cpu/kernels/*.cpp.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef NORMA_ISA
#error "simd.h belongs to files compiled once per instruction set (backends/cpu/kernels)"
#endif

namespace norma::cpu::NORMA_ISA {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
constexpr int register_count = 32;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
constexpr int register_count = 16;
#else
constexpr int register_bytes = 16;
constexpr int register_count = 16;
#endif

typedef float F __attribute__((vector_size(register_bytes)));
typedef double D __attribute__((vector_size(register_bytes)));
typedef std::int32_t I __attribute__((vector_size(register_bytes)));
typedef std::uint32_t U __attribute__((vector_size(register_bytes)));  // bits of a float, where sums are to wrap
typedef std::int64_t L __attribute__((vector_size(register_bytes)));

template <class T> struct VecOf;
template <> struct VecOf<float> { using type = F; };
template <> struct VecOf<double> { using type = D; };
template <class T> using Vec = typename VecOf<T>::type;
template <class T> constexpr int lanes = register_bytes / static_cast<int>(sizeof(T));
template <class V> struct ScalarOf { using type = float; };
template <> struct ScalarOf<D> { using type = double; };
template <class V> using Scalar = typename ScalarOf<V>::type;

#define NORMA_INLINE inline __attribute__((always_inline))

template <class T> NORMA_INLINE Vec<T> load(const T* p) { Vec<T> v; std::memcpy(&v, p, sizeof v); return v; }
template <class T> NORMA_INLINE void store(T* p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }
template <class T> NORMA_INLINE Vec<T> splat(T x) { return x - Vec<T>{}; }  // x - 0 keeps every bit, -0 too

/// Stores what is not read again soon past the caches, where p is aligned and the machine can; end_stream() before others read it.
template <class T, class V> NORMA_INLINE void stream(T* p, V v) {
#if defined(__AVX2__)
  if (reinterpret_cast<std::uintptr_t>(p) % register_bytes == 0) {
#if defined(__AVX512F__)
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#else
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#endif
  }
#endif
  std::memcpy(p, &v, sizeof v);
}
NORMA_INLINE void end_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
/// All bits of the first n elements.
template <class T> NORMA_INLINE __m256i mask_of(int n) {
  alignas(64) static constexpr std::int32_t ones_and_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ones_and_zeros + 8 - n * static_cast<int>(sizeof(T) / 4)));
}
#endif

/// The first n elements; the rest are `rest`. 0 <= n < lanes. A copy of n elements would be a call, around which all registers are spilled.
template <class T> NORMA_INLINE Vec<T> load_n(const T* p, int n, T rest = 0) {
  Vec<T> v = splat(rest);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_mask_loadu_ps((__m512)v, static_cast<__mmask16>((1u << n) - 1), p);
#elif defined(__AVX2__)
  const __m256i mask = mask_of<T>(n);
  const __m256i others = _mm256_andnot_si256(mask, (__m256i)v);
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_or_si256((__m256i)_mm256_maskload_ps(p, mask), others);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_or_si256((__m256i)_mm256_maskload_pd(p, mask), others);
#endif
  std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(T));
  return v;
}
template <class T> NORMA_INLINE void store_n(T* p, Vec<T> v, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__)  // a masked store is slow on AMD's processors
  const __m256i whole = (__m256i)v;
  __m128i part = _mm256_castsi256_si128(whole);
  int bytes = n * static_cast<int>(sizeof(T));
  char* to = reinterpret_cast<char*>(p);
  if (bytes & 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), part), part = _mm256_extracti128_si256(whole, 1), to += 16;
  if (bytes & 8) _mm_storel_epi64(reinterpret_cast<__m128i*>(to), part), part = _mm_unpackhi_epi64(part, part), to += 8;
  if (sizeof(T) == 4 && (bytes & 4)) _mm_storeu_si32(to, part);
  return;
#endif
  std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T));
}

/// a * b + c, rounded once.
NORMA_INLINE F fma(F a, F b, F c) {
#if defined(__AVX512F__)
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;  // baseline x86-64 has no fused form: rounded twice
#endif
}
NORMA_INLINE D fma(D a, D b, D c) {
#if defined(__AVX512F__)
  return (D)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (D)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (D)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

/// a > b ? a : b and a < b ? a : b, so that b stays where one is a NaN.
template <class V> NORMA_INLINE V vmax(V a, V b) {
#if defined(__AVX512F__)  // where compilers do not see that it is one instruction
  if constexpr (sizeof(Scalar<V>) == 8) return (V)_mm512_max_pd((__m512d)a, (__m512d)b);
  else return (V)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}
template <class V> NORMA_INLINE V vmin(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Scalar<V>) == 8) return (V)_mm512_min_pd((__m512d)a, (__m512d)b);
  else return (V)_mm512_min_ps((__m512)a, (__m512)b);
#else
  return a < b ? a : b;
#endif
}

/// The lower and the upper half of x as doubles.
struct Doubles {
  D low, high;
};
NORMA_INLINE Doubles to_doubles(F x) {
#if defined(__AVX512F__)  // where compilers take quarters of x
  return {(D)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x)), (D)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1))};
#elif defined(__AVX2__)
  return {(D)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x)), (D)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1))};
#else
  typedef float Half __attribute__((vector_size(register_bytes / 2)));
  Half half[2];
  std::memcpy(half, &x, sizeof x);
  return {__builtin_convertvector(half[0], D), __builtin_convertvector(half[1], D)};
#endif
}

NORMA_INLINE F sqrt(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (F)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < lanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/// The upper half added to the lower one, until a single element is left.
template <class S, int bytes>
NORMA_INLINE S sum_of_halves(const void* x) {
  if constexpr (bytes == sizeof(S)) {
    S s;
    std::memcpy(&s, x, sizeof s);
    return s;
  } else {
    typedef S Half __attribute__((vector_size(bytes / 2)));
    Half half[2];
    std::memcpy(half, x, bytes);
    half[0] += half[1];
    return sum_of_halves<S, bytes / 2>(half);
  }
}
/// Sum, maximum, minimum over the lanes, always by the same tree.
template <class V> NORMA_INLINE Scalar<V> sum_lanes(V v) { return sum_of_halves<Scalar<V>, register_bytes>(&v); }
template <class V> NORMA_INLINE Scalar<V> max_lanes(V v) {
  Scalar<V> m = v[0];
  for (int i = 1; i < lanes<Scalar<V>>; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
template <class V> NORMA_INLINE Scalar<V> min_lanes(V v) {
  Scalar<V> m = v[0];
  for (int i = 1; i < lanes<Scalar<V>>; ++i) m = v[i] < m ? v[i] : m;
  return m;
}

}  // namespace norma::cpu::NORMA_ISA
