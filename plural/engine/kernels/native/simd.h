// As many floats at a time as one register of the machine holds.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr bool MANY_REGISTERS = true;
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr bool MANY_REGISTERS = false;  // sixteen
#else  // NEON has four floats in each of 32 registers
constexpr int W = 4;
constexpr bool MANY_REGISTERS = true;
#endif

constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));
typedef int16_t VS __attribute__((vector_size(4 * W)));
typedef uint8_t VB __attribute__((vector_size(4 * W)));

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
#elif defined(__AVX2__)
  return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
  typedef _Float16 Halves __attribute__((vector_size(2 * W)));
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return __builtin_convertvector(halves, V);
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
#elif defined(__AVX2__)
  return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#elif defined(__ARM_NEON)
  return (V)vshll_n_u16(vld1_u16(&p->bits), 16);
#else
  V v;
  for (int i = 0; i < W; i++) v[i] = widened(p[i]);
  return v;
#endif
}

// As bytes; the values fit.
inline void store(int8_t *p, VI v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(half, half));
#else
  typedef int8_t Bytes __attribute__((vector_size(W)));
  const Bytes small = __builtin_convertvector(v, Bytes);
  std::memcpy(p, &small, sizeof small);
#endif
}

inline VB load(const uint8_t *p) {
  VB v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }

inline V splat(float x) { return x - V{}; }

// a * b + c, rounded once where the machine can.
inline V fma(V a, V b, V c) {
#if defined(__AVX512F__)
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline V larger(V a, V b) { return a > b ? a : b; }

inline float sum(V v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 t = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
#elif defined(__ARM_NEON)
  return vaddvq_f32((float32x4_t)v);
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
#elif defined(__AVX2__)
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  t = _mm_add_epi32(t, _mm_unpackhi_epi64(t, t));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 1)));
#elif defined(__ARM_NEON)
  return vaddvq_s32((int32x4_t)v);
#else
  int32_t total = 0;
  for (int i = 0; i < W; i++) total += v[i];
  return total;
#endif
}

inline float largest(V v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 t = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
#elif defined(__ARM_NEON)
  return vmaxvq_f32((float32x4_t)v);
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
