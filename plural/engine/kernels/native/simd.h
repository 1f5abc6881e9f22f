// Sixteen floats at a time, on any machine: the compiler splits them into the registers there are.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int W = 16;
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
typedef uint8_t VB __attribute__((vector_size(64)));
typedef _Float16 H __attribute__((vector_size(32)));

struct Bf16 {
  uint16_t bits;  // the upper half of an fp32
};

inline V load(const float *p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline V load(const _Float16 *p) {
#if defined(__AVX512F__)
  return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#else
  V v;
  for (int i = 0; i < W; i++) v[i] = (float)p[i];
  return v;
#endif
}

inline float widened(Bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline V load(const Bf16 *p) {
#if defined(__AVX512F__)
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
  V v;
  for (int i = 0; i < W; i++) v[i] = widened(p[i]);
  return v;
#endif
}

// As bytes; the values fit.
inline void store(int8_t *p, VI v) {
  typedef int8_t Bytes __attribute__((vector_size(W)));
  const Bytes small = __builtin_convertvector(v, Bytes);
  std::memcpy(p, &small, sizeof small);
}

inline VB load(const uint8_t *p) {
  VB v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }

inline V splat(float x) { return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// a * b + c, rounded once where the machine can.
inline V fma(V a, V b, V c) {
#if defined(__AVX512F__)
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

inline V larger(V a, V b) { return a > b ? a : b; }

inline float sum(V v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);  // in the same order
#else
  float t[W];
  store(t, v);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) t[i] += t[i + half];
  return t[0];
#endif
}

inline int32_t sum(VI v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t total = 0;
  for (int i = 0; i < W; i++) total += v[i];
  return total;
#endif
}

inline float largest(V v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float best = v[0];
  for (int i = 1; i < W; i++) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// exp with a relative error below 2e-7; exactly 0 below -87. After Cephes' expf.
inline V exp(V x) {
  const V low = splat(-87.0f), magic = splat(MAGIC);
  const V clamped = larger(x > splat(88.0f) ? splat(88.0f) : x, low);
  const V n = fma(clamped, splat(1.44269504088896341f), magic) - magic;
  V r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  V p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  const VI power = (__builtin_convertvector(n, VI) + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return x < low ? V{} : p * scale;
}

}  // namespace
