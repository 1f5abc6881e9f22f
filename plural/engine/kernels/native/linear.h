// Linears: packed weights, and products whose every output adds its terms in the order of the inputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#include "plural_kernels.h"
#include "simd.h"

namespace {

constexpr int BLOCK = 32;  // inputs that share a scale and a minimum
constexpr int LINE = 64;   // bytes of a cache line

inline int panels(int out) { return (out + W - 1) / W; }

// Whether inputs are multiplied as int8 codes.
inline bool coded(int kind) { return kind == PLURAL_U8 || kind == PLURAL_U4; }

// Of the codes of a block of 16 outputs.
constexpr size_t code_bytes(int kind) { return kind == PLURAL_U4 ? BLOCK * W / 2 : BLOCK * W; }

// Of 32 inputs of 16 outputs.
constexpr size_t block_bytes(int kind) {
  if (kind == PLURAL_F32) return BLOCK * W * sizeof(float);
  if (kind == PLURAL_BF16) return BLOCK * W * sizeof(Bf16);
  return code_bytes(kind) + 2 * W * sizeof(_Float16);
}

inline size_t panel_bytes(int kind, int in) { return (size_t)in / BLOCK * block_bytes(kind); }

// Thread t's share of n things, in whole pieces of `grain`.
inline std::pair<int, int> share(int n, int t, int threads, int grain = 1) {
  const int64_t pieces = (n + grain - 1) / grain;
  return {(int)std::min<int64_t>(n, pieces * t / threads * grain),
          (int)std::min<int64_t>(n, pieces * (t + 1) / threads * grain)};
}

// Stores the columns of a panel that exist.
inline void put(float *to, V v, int columns) {
  if (columns >= W) return store(to, v);
  for (int i = 0; i < columns; i++) to[i] = v[i];
}

inline V bias_of(const float *bias, int columns) {
  V v{};
  if (bias)
    for (int i = 0; i < std::min(columns, W); i++) v[i] = bias[i];
  return v;
}

// ----------------------------------------------------------------------------------------------------- fp32 and bf16
// M rows by P panels of weights T, multiplied and added in fp32.
template <int M, int P, class T>
void tile_float(const T *w, size_t panel, const float *x, int in, float *y, int out, int column, const float *bias) {
  V sums[M][P] = {};
  for (int k = 0; k < in; k++)
    for (int p = 0; p < P; p++) {
      const V weights = load(w + p * panel + (size_t)k * W);
      for (int m = 0; m < M; m++) sums[m][p] = fma(splat(x[(size_t)m * in + k]), weights, sums[m][p]);
    }
  for (int p = 0; p < P; p++) {
    const int at = column + p * W;
    const V more = bias_of(bias ? bias + at : nullptr, out - at);
    for (int m = 0; m < M; m++) put(y + (size_t)m * out + at, bias ? sums[m][p] + more : sums[m][p], out - at);
  }
}

template <int P, class T>
void rows_float(const T *w, size_t panel, const float *x, int rows, int in, float *y, int out, int column,
                const float *bias) {
  int r = 0;
  for (; r + 8 <= rows; r += 8)
    tile_float<8, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
  for (; r + 4 <= rows; r += 4)
    tile_float<4, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
  for (; r < rows; r++) tile_float<1, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
}

template <class T>
void linear_float(const plural_weight &weight, const float *x, int rows, float *y, const float *bias, int first,
                  int last) {
  const size_t panel = (size_t)weight.in * W;
  const T *w = (const T *)weight.data;
  int p = first;
  for (; p + 2 <= last; p += 2) rows_float<2>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
  for (; p < last; p++) rows_float<1>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
}

// ---------------------------------------------------------------------------------------------------- int8 codes
// A row's inputs as int8, block by block: x = scale * code. `total` is scale times the sum of the codes.
struct Codes {
  int8_t *code;
  float *scale, *total;
};

inline void encode(const float *x, int in, Codes to) {
  for (int b = 0; b < in / BLOCK; b++, x += BLOCK) {
    const V first = load(x), second = load(x + W);
    const float top = largest(larger(larger(first, -first), larger(second, -second)));
    const V inverse = splat(top > 0 ? 127.0f / top : 0.0f), magic = splat(MAGIC);
    const VI low = __builtin_convertvector(fma(first, inverse, magic) - magic, VI);
    const VI high = __builtin_convertvector(fma(second, inverse, magic) - magic, VI);
    store(to.code + b * BLOCK, low);
    store(to.code + b * BLOCK + W, high);
    to.scale[b] = top / 127.0f;
    to.total[b] = to.scale[b] * (float)sum(low + high);
  }
}

// Four inputs of each of 16 outputs (unsigned) times four inputs of a row (signed), added to `sums`.
inline VI dot4(VI sums, VB weights, const int8_t *x) {
#if defined(__AVX512VNNI__)
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return (VI)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(four));
#else
  uint8_t w[4 * W];
  std::memcpy(w, &weights, sizeof w);
  for (int o = 0; o < W; o++)
    sums[o] += w[4 * o] * x[0] + w[4 * o + 1] * x[1] + w[4 * o + 2] * x[2] + w[4 * o + 3] * x[3];
  return sums;
#endif
}

// Counts (below 32 * 255 * 127, 2^20) are added up in the bits of MAGIC's fraction: read as a float, they are the count
// and MAGIC, exactly.
inline VI start() {
#if defined(__AVX512F__)
  return (VI)splat(MAGIC);
#else
  return VI{};
#endif
}

// scale * count, rounded once.
inline V scaled(VI counts, V scale) {
#if defined(__AVX512F__)
  return fma((V)counts, scale, scale * splat(-MAGIC));  // spares the conversion
#else
  return __builtin_convertvector(counts, V) * scale;
#endif
}

// What a tile asks memory for, beside its work: so many cache lines at every block of its inputs.
struct Ahead {
  const uint8_t *at;
  int lines;
};

// M rows by P panels of codes of kind K. Memory is asked for outputs before, and for weights while, it is computed.
template <int M, int P, int K>
void tile_codes(const uint8_t *w, size_t panel, Codes x, int in, float *y, int out, int column, const float *bias,
                Ahead ahead) {
  constexpr size_t EIGHT = code_bytes(K) / 4;  // of 8 inputs
  const int blocks = in / BLOCK;
  V sums[M][P] = {};
  for (int m = 0; m < M; m++)
    for (int p = 0; p < P; p++) __builtin_prefetch(y + (size_t)m * out + column + p * W, 1, 3);
  for (int b = 0; b < blocks; b++) {
    for (int i = 0; i < ahead.lines; i++, ahead.at += LINE) __builtin_prefetch(ahead.at, 0, 2);
    VI counts[M][P];
    for (int m = 0; m < M; m++)
      for (int p = 0; p < P; p++) counts[m][p] = start();
    for (int k = 0; k < BLOCK; k += 8, w += EIGHT) {
      VB low[P], high[P];
      for (int p = 0; p < P; p++) {
        const uint8_t *at = w + p * panel;
        low[p] = load(at);
        high[p] = K == PLURAL_U4 ? low[p] >> 4 : load(at + EIGHT / 2);
        if (K == PLURAL_U4) low[p] &= 15;
      }
      const int8_t *codes = x.code + b * BLOCK + k;
      for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) counts[m][p] = dot4(counts[m][p], low[p], codes + (size_t)m * in);
      for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) counts[m][p] = dot4(counts[m][p], high[p], codes + (size_t)m * in + 4);
    }
    for (int p = 0; p < P; p++) {
      const _Float16 *halves = (const _Float16 *)(w + p * panel);
      const V scale = load(halves), minimum = load(halves + W);
      for (int m = 0; m < M; m++) {
        const size_t at = (size_t)m * blocks + b;
        sums[m][p] = fma(scaled(counts[m][p], scale), splat(x.scale[at]), sums[m][p]);
        sums[m][p] = fma(minimum, splat(x.total[at]), sums[m][p]);
      }
    }
    w += 2 * W * sizeof(_Float16);
  }
  for (int p = 0; p < P; p++) {
    const int at = column + p * W;
    const V more = bias_of(bias ? bias + at : nullptr, out - at);
    for (int m = 0; m < M; m++) put(y + (size_t)m * out + at, bias ? sums[m][p] + more : sums[m][p], out - at);
  }
}

template <int P, int K>
void rows_codes(const uint8_t *w, size_t panel, Codes x, int rows, int in, float *y, int out, int column,
                const float *bias) {
  const size_t blocks = in / BLOCK;
  const int passes = rows / 8 + rows % 8 / 4 + rows % 4;
  Ahead ahead{w + P * panel, (int)(P * block_bytes(K) / LINE + passes - 1) / passes};  // the next panels, in `passes` parts
  int r = 0;
  const auto tile = [&]<int M>() {
    const Codes codes{x.code + (size_t)r * in, x.scale + r * blocks, x.total + r * blocks};
    tile_codes<M, P, K>(w, panel, codes, in, y + (size_t)r * out, out, column, bias, ahead);
    ahead.at += blocks * ahead.lines * LINE;
    r += M;
  };
  while (r + 8 <= rows) tile.template operator()<8>();
  while (r + 4 <= rows) tile.template operator()<4>();
  while (r < rows) tile.template operator()<1>();
}

template <int K>
void linear_codes(const plural_weight &weight, Codes x, int rows, float *y, const float *bias, int first, int last) {
  const size_t panel = panel_bytes(K, weight.in);
  const uint8_t *w = (const uint8_t *)weight.data;
  int p = first;
  for (; p + 2 <= last; p += 2)
    rows_codes<2, K>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
  for (; p < last; p++) rows_codes<1, K>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
}

// ---------------------------------------------------------------------------------------------------------------- LoRA
// low[m][j] = x[m] . a[j], for M rows and J ranks.
template <int M, int J, class T>
void shrink_tile(const float *x, int in, const T *a, float *low, int width) {
  V sums[M][J] = {};
  for (int k = 0; k < in; k += W) {
    V row[M];
    for (int m = 0; m < M; m++) row[m] = load(x + (size_t)m * in + k);
    for (int j = 0; j < J; j++) {
      const V weights = load(a + (size_t)j * in + k);
      __builtin_prefetch(a + (size_t)(j + J) * in + k, 0, 2);
      for (int m = 0; m < M; m++) sums[m][j] = fma(row[m], weights, sums[m][j]);
    }
  }
  for (int m = 0; m < M; m++)
    for (int j = 0; j < J; j++) low[(size_t)m * width + j] = sum(sums[m][j]);
}

// One rank more or less at a time: the ranks first..last-1 of `a` for all rows.
template <class T>
void shrink(const float *x, int rows, int in, const T *a, int first, int last, float *low, int width) {
  for (int j = first; j < last;) {
    const int step = last - j >= 4 ? 4 : 1;
    const T *ranks = a + (size_t)j * in;
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
      const float *from = x + (size_t)r * in;
      float *to = low + (size_t)r * width + j;
      step == 4 ? shrink_tile<4, 4>(from, in, ranks, to, width) : shrink_tile<4, 1>(from, in, ranks, to, width);
    }
    for (; r < rows; r++) {
      const float *from = x + (size_t)r * in;
      float *to = low + (size_t)r * width + j;
      step == 4 ? shrink_tile<1, 4>(from, in, ranks, to, width) : shrink_tile<1, 1>(from, in, ranks, to, width);
    }
    j += step;
  }
}

// y[m][c..] += scale * (low[m] . b[:, c..]), for M rows and C vectors of columns.
template <int M, int C, class T>
void expand_tile(const float *low, int width, int rank, float scale, const T *b, int out, float *y, int stride) {
  V sums[M][C] = {};
  for (int j = 0; j < rank; j++)
    for (int c = 0; c < C; c++) {
      const V weights = load(b + (size_t)j * out + c * W);
      __builtin_prefetch(b + (size_t)j * out + (C + c) * W, 0, 3);
      for (int m = 0; m < M; m++) sums[m][c] = fma(splat(low[(size_t)m * width + j]), weights, sums[m][c]);
    }
  for (int m = 0; m < M; m++)
    for (int c = 0; c < C; c++) {
      float *to = y + (size_t)m * stride + c * W;
      store(to, fma(sums[m][c], splat(scale), load(to)));
    }
}

// The columns first..last-1 (whole vectors) of a module with `out` columns, for all rows; y is at the module's first.
template <class T>
void expand(const float *low, int width, int rows, int rank, float scale, const T *b, int out, float *y, int stride,
            int first, int last) {
  for (int c = first; c < last;) {
    const int vectors = last - c >= 4 * W ? 4 : 1;
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
      const float *from = low + (size_t)r * width;
      float *to = y + (size_t)r * stride + c;
      vectors == 4 ? expand_tile<4, 4>(from, width, rank, scale, b + c, out, to, stride)
                   : expand_tile<4, 1>(from, width, rank, scale, b + c, out, to, stride);
    }
    for (; r < rows; r++) {
      const float *from = low + (size_t)r * width;
      float *to = y + (size_t)r * stride + c;
      vectors == 4 ? expand_tile<1, 4>(from, width, rank, scale, b + c, out, to, stride)
                   : expand_tile<1, 1>(from, width, rank, scale, b + c, out, to, stride);
    }
    c += vectors * W;
  }
}

}  // namespace
