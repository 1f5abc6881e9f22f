// Linears: packed weights, and products whose every output adds its terms in the order of the inputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#include "plural_kernels.h"
#include "simd.h"

namespace {

constexpr int BLOCK = 32;  // inputs that share a scale and a minimum

inline int panels(int out) { return (out + W - 1) / W; }

inline size_t panel_bytes(int kind, int in) {
  if (kind == PLURAL_F32) return (size_t)in * W * sizeof(float);
  return (size_t)in / BLOCK * (BLOCK * W + 2 * W * sizeof(_Float16));
}

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

// ---------------------------------------------------------------------------------------------------------------- fp32
// M rows by P panels.
template <int M, int P>
void tile_f32(const float *w, size_t panel, const float *x, int in, float *y, int out, int column, const float *bias) {
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

template <int P>
void rows_f32(const float *w, size_t panel, const float *x, int rows, int in, float *y, int out, int column,
              const float *bias) {
  int r = 0;
  for (; r + 8 <= rows; r += 8)
    tile_f32<8, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
  for (; r + 4 <= rows; r += 4)
    tile_f32<4, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
  for (; r < rows; r++) tile_f32<1, P>(w, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, column, bias);
}

inline void linear_f32(const plural_weight &weight, const float *x, int rows, float *y, const float *bias, int first,
                       int last) {
  const size_t panel = (size_t)weight.in * W;
  const float *w = (const float *)weight.data;
  int p = first;
  for (; p + 2 <= last; p += 2) rows_f32<2>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
  for (; p < last; p++) rows_f32<1>(w + p * panel, panel, x, rows, weight.in, y, weight.out, p * W, bias);
}

// ---------------------------------------------------------------------------------------------------- 8-bit, block-wise
// A row's inputs as int8, block by block: x = scale * code. `total` is scale times the sum of the codes.
struct Codes {
  int8_t *code;
  float *scale, *total;
};

inline void encode(const float *x, int in, Codes to) {
  for (int b = 0; b < in / BLOCK; b++, x += BLOCK) {
    const V first = load(x), second = load(x + W);
    const float top = largest(larger(larger(first, -first), larger(second, -second)));
    const V inverse = splat(top > 0 ? 127.0f / top : 0.0f), magic = splat(12582912.0f);
    float rounded[BLOCK];
    store(rounded, fma(first, inverse, magic) - magic);
    store(rounded + W, fma(second, inverse, magic) - magic);
    int total = 0;
    for (int i = 0; i < BLOCK; i++) {
      const int code = (int)rounded[i];
      to.code[b * BLOCK + i] = (int8_t)code;
      total += code;
    }
    to.scale[b] = top / 127.0f;
    to.total[b] = to.scale[b] * (float)total;
  }
}

// Four inputs of each of 16 outputs (unsigned) times four inputs of a row (signed), added to `sums`.
inline VI dot4(VI sums, const uint8_t *weights, const int8_t *x) {
#if defined(__AVX512VNNI__)
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return (VI)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(weights), _mm512_set1_epi32(four));
#else
  for (int o = 0; o < W; o++)
    sums[o] += weights[4 * o] * x[0] + weights[4 * o + 1] * x[1] + weights[4 * o + 2] * x[2] + weights[4 * o + 3] * x[3];
  return sums;
#endif
}

template <int M>
void tile_u8(const uint8_t *w, Codes x, int in, float *y, int out, int column, const float *bias) {
  const int blocks = in / BLOCK;
  V sums[M] = {};
  for (int b = 0; b < blocks; b++) {
    VI counts[M] = {};
    for (int k = 0; k < BLOCK; k += 4, w += 4 * W)
      for (int m = 0; m < M; m++) counts[m] = dot4(counts[m], w, x.code + (size_t)m * in + b * BLOCK + k);
    const V scale = load((const _Float16 *)w), minimum = load((const _Float16 *)w + W);
    w += 2 * W * sizeof(_Float16);
    for (int m = 0; m < M; m++) {
      const V product = __builtin_convertvector(counts[m], V) * scale;
      sums[m] = fma(product, splat(x.scale[m * blocks + b]), sums[m]);
      sums[m] = fma(minimum, splat(x.total[m * blocks + b]), sums[m]);
    }
  }
  const V more = bias_of(bias ? bias + column : nullptr, out - column);
  for (int m = 0; m < M; m++) put(y + (size_t)m * out + column, bias ? sums[m] + more : sums[m], out - column);
}

inline void linear_u8(const plural_weight &weight, Codes x, int rows, float *y, const float *bias, int first,
                      int last) {
  const int in = weight.in, out = weight.out, blocks = in / BLOCK;
  for (int p = first; p < last; p++) {
    const uint8_t *w = (const uint8_t *)weight.data + p * panel_bytes(PLURAL_U8, in);
    const auto from = [&](int r) { return Codes{x.code + (size_t)r * in, x.scale + r * blocks, x.total + r * blocks}; };
    int r = 0;
    for (; r + 8 <= rows; r += 8) tile_u8<8>(w, from(r), in, y + (size_t)r * out, out, p * W, bias);
    for (; r + 4 <= rows; r += 4) tile_u8<4>(w, from(r), in, y + (size_t)r * out, out, p * W, bias);
    for (; r < rows; r++) tile_u8<1>(w, from(r), in, y + (size_t)r * out, out, p * W, bias);
  }
}

// ------------------------------------------------------------------------------------------------------------- packing
struct Source {
  const float *w;
  int64_t stride_in, stride_out, out;
  float at(int64_t i, int64_t o) const { return o < out ? w[i * stride_in + o * stride_out] : 0.0f; }
};

inline void pack_panel_f32(Source source, int in, int column, float *to) {
  for (int k = 0; k < in; k++)
    for (int o = 0; o < W; o++) *to++ = source.at(k, column + o);
}

// A block's 256 levels lie evenly between its smallest and its largest weight.
inline void pack_panel_u8(Source source, int in, int column, uint8_t *to) {
  for (int b = 0; b < in; b += BLOCK, to += BLOCK * W + 2 * W * sizeof(_Float16)) {
    _Float16 *scales = (_Float16 *)(to + BLOCK * W), *minima = scales + W;
    for (int o = 0; o < W; o++) {
      float low = source.at(b, column + o), high = low;
      for (int k = 1; k < BLOCK; k++) {
        low = std::min(low, source.at(b + k, column + o));
        high = std::max(high, source.at(b + k, column + o));
      }
      minima[o] = (_Float16)low;
      scales[o] = (_Float16)((high - low) / 255.0f);
      const float scale = (float)scales[o], minimum = (float)minima[o];
      for (int k = 0; k < BLOCK; k++) {
        const float level = scale > 0 ? std::nearbyint((source.at(b + k, column + o) - minimum) / scale) : 0.0f;
        to[k / 4 * 4 * W + o * 4 + k % 4] = (uint8_t)std::min(255.0f, std::max(0.0f, level));
      }
    }
  }
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
