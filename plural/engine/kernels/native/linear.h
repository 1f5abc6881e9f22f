// Linears: packed weights, and products whose every output adds its terms in the order of the inputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#include "plural_kernels.h"
#include "simd.h"

namespace {

constexpr int BLOCK = 32;           // inputs that share a scale and a minimum
constexpr int PANEL = 16;           // outputs that are packed together
constexpr int PARTS = PANEL / W;    // vectors of a panel
constexpr int LINE = 64;            // bytes of a cache line
constexpr int MANY = MANY_REGISTERS ? 8 : 4;  // rows of a large tile
// Of a loop over a block's codes: with few registers, the compiler would make all products before it adds any.
constexpr int UNROLL = MANY_REGISTERS ? BLOCK / 8 : 1;

inline int panels(int out) { return (out + PANEL - 1) / PANEL; }

// Whether inputs are multiplied as int8 codes.
inline bool coded(int kind) { return kind == PLURAL_U8 || kind == PLURAL_U4; }

// Of the codes of a block of a panel.
constexpr size_t code_bytes(int kind) { return kind == PLURAL_U4 ? BLOCK * PANEL / 2 : BLOCK * PANEL; }

// Of 32 inputs of a panel.
constexpr size_t block_bytes(int kind) {
  if (kind == PLURAL_F32) return BLOCK * PANEL * sizeof(float);
  if (kind == PLURAL_BF16) return BLOCK * PANEL * sizeof(Bf16);
  return code_bytes(kind) + 2 * PANEL * sizeof(_Float16);
}

inline size_t panel_bytes(int kind, int in) { return (size_t)in / BLOCK * block_bytes(kind); }

// Thread t's share of n things, in whole pieces of `grain`.
inline std::pair<int, int> share(int n, int t, int threads, int grain = 1) {
  const int64_t pieces = (n + grain - 1) / grain;
  return {(int)std::min<int64_t>(n, pieces * t / threads * grain),
          (int)std::min<int64_t>(n, pieces * (t + 1) / threads * grain)};
}

// Stores the columns of a vector that exist.
inline void put(float *to, V v, int columns) {
  if (columns >= W) return store(to, v);
  for (int i = 0; i < columns; i++) to[i] = v[i];
}

// Of a tile of M rows by P vectors: adds the bias and stores.
template <int M, int P>
void put_tile(const V (&sums)[M][P], float *y, int out, int column, const float *bias) {
  for (int p = 0; p < P; p++) {
    const int at = column + p * W, columns = out - at;
    V more{};
    if (bias)
      for (int i = 0; i < std::min(columns, W); i++) more[i] = bias[at + i];
    for (int m = 0; m < M; m++) put(y + (size_t)m * out + at, bias ? sums[m][p] + more : sums[m][p], columns);
  }
}

// Calls tile<M>(first row) for all rows, in tiles of M = `Most`, 4 and 1 rows.
template <int Most, class Tile>
void in_tiles(int rows, const Tile &tile) {
  int r = 0;
  for (; r + Most <= rows; r += Most) tile.template operator()<Most>(r);
  for (; r + 4 <= rows; r += 4) tile.template operator()<4>(r);
  for (; r < rows; r++) tile.template operator()<1>(r);
}

// ----------------------------------------------------------------------------------------------------- fp32 and bf16
constexpr int RUN = 96;  // inputs that are added up by themselves: one long sum loses more to rounding

// M rows by P vectors of outputs, of weights T, multiplied and added in fp32. `w` is at the first vector, in its panel.
template <int M, int P, class T>
void tile_float(const T *w, size_t panel, const float *x, int in, float *y, int out, int column, const float *bias) {
  V sums[M][P] = {};
  for (int start = 0; start < in; start += RUN) {
    V run[M][P] = {};
    for (int k = start; k < std::min(in, start + RUN); k++)
      for (int p = 0; p < P; p++) {
        const V weights = load(w + p / PARTS * panel + p % PARTS * W + (size_t)k * PANEL);
        for (int m = 0; m < M; m++) run[m][p] = fma(splat(x[(size_t)m * in + k]), weights, run[m][p]);
      }
    for (int m = 0; m < M; m++)
      for (int p = 0; p < P; p++) sums[m][p] += run[m][p];
  }
  put_tile(sums, y, out, column, bias);
}

// The panels first..last-1 for all rows.
template <class T>
void linear_float(const plural_weight &weight, const float *x, int rows, float *y, const float *bias, int first,
                  int last) {
  constexpr int P = std::max(2, PARTS);
  const int in = weight.in, out = weight.out;
  const size_t panel = (size_t)in * PANEL;
  const T *w = (const T *)weight.data;
  const auto vectors = [&]<int N>(int v) {
    in_tiles<MANY>(rows, [&]<int M>(int r) {
      tile_float<M, N>(w + v / PARTS * panel, panel, x + (size_t)r * in, in, y + (size_t)r * out, out, v * W, bias);
    });
  };
  int v = first * PARTS;
  for (; v + P <= last * PARTS; v += P) vectors.template operator()<P>(v);
  for (; v < last * PARTS; v += PARTS) vectors.template operator()<PARTS>(v);
}

// ---------------------------------------------------------------------------------------------------- int8 codes
// A row's inputs as int8, block by block: x = scale * code. `total` is scale times the sum of the codes.
struct Codes {
  int8_t *code;
  float *scale, *total;
};

inline void encode(const float *x, int in, Codes to) {
  for (int b = 0; b < in / BLOCK; b++, x += BLOCK) {
    V most{};
    for (int k = 0; k < BLOCK; k += W) most = larger(most, larger(load(x + k), -load(x + k)));
    const float top = largest(most);
    const V inverse = splat(top > 0 ? 127.0f / top : 0.0f), magic = splat(MAGIC);
    VI total{};
    for (int k = 0; k < BLOCK; k += W) {
      const VI codes = __builtin_convertvector(fma(load(x + k), inverse, magic) - magic, VI);
      store(to.code + b * BLOCK + k, codes);
      total += codes;
    }
    to.scale[b] = top / 127.0f;
    to.total[b] = to.scale[b] * (float)sum(total);
  }
}

// Counts of a vector of outputs: the codes of a block's weights (unsigned) times those of a row's inputs (signed).
// `add` takes four inputs of each output, in the low (and, of codes of 8 bits, also in the high) halves of bytes.
#if defined(__AVX512VNNI__)
// Counts (below 32 * 255 * 127, 2^20) are added up in the bits of MAGIC's fraction: read as a float, they are the count
// and MAGIC, exactly, which spares a conversion.
template <int K>
struct Counts {
  VI counts = (VI)splat(MAGIC);

  void add(VB weights, const int8_t *x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    counts = (VI)_mm512_dpbusd_epi32((__m512i)counts, (__m512i)weights, _mm512_set1_epi32(four));
  }
  // scale * count, rounded once.
  V scaled(V scale) const { return fma((V)counts, scale, scale * splat(-MAGIC)); }
};
#elif defined(__AVX2__)
// Products of halves of a byte with a signed byte, added in pairs, and 8 such pairs of a block fit in 16 bits.
template <int K>
struct Counts {
  VS low{}, high{};

  static VS pairs(VB weights, __m256i x) { return (VS)_mm256_maddubs_epi16((__m256i)weights, x); }
  void add(VB weights, const int8_t *x) {
    int32_t word;
    std::memcpy(&word, x, sizeof word);
    const __m256i four = _mm256_set1_epi32(word);
    low += pairs(K == PLURAL_U4 ? weights : weights & 15, four);
    if (K == PLURAL_U8) high += pairs(weights >> 4, four);
  }
  V scaled(V scale) const {
    __m256i counts = _mm256_madd_epi16((__m256i)low, _mm256_set1_epi16(1));
    if (K == PLURAL_U8) counts = _mm256_add_epi32(counts, _mm256_madd_epi16((__m256i)high, _mm256_set1_epi16(16)));
    return (V)_mm256_cvtepi32_ps(counts) * scale;
  }
};
#elif defined(__ARM_NEON)
// Halves of a byte are signed bytes as well, so that products of signed bytes do: four at once where there are dot
// products, else in pairs, which fit in 16 bits (2 * 15 * 127).
template <int K>
struct Counts {
  int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);

  static int32x4_t dot(int32x4_t to, VB weights, int8x16_t x) {
    const int8x16_t w = (int8x16_t)weights;
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(to, w, x);
#else
    const int16x8_t first = vmull_s8(vget_low_s8(w), vget_low_s8(x)), second = vmull_high_s8(w, x);
    return vpadalq_s16(to, vpaddq_s16(first, second));
#endif
  }
  void add(VB weights, const int8_t *x) {
    int32_t word;
    std::memcpy(&word, x, sizeof word);
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(word));
    low = dot(low, K == PLURAL_U4 ? weights : weights & 15, four);
    if (K == PLURAL_U8) high = dot(high, weights >> 4, four);
  }
  V scaled(V scale) const {
    const int32x4_t counts = K == PLURAL_U8 ? vaddq_s32(low, vshlq_n_s32(high, 4)) : low;
    return (V)vcvtq_f32_s32(counts) * scale;
  }
};
#else
template <int K>
struct Counts {
  VI counts{};

  void add(VB weights, const int8_t *x) {
    for (int o = 0; o < W; o++)
      for (int i = 0; i < 4; i++) counts[o] += weights[4 * o + i] * x[i];
  }
  V scaled(V scale) const { return __builtin_convertvector(counts, V) * scale; }
};
#endif

// What a tile asks memory for, beside its work: so many cache lines at every block of its inputs.
struct Ahead {
  const uint8_t *at;
  int lines;
};

// M rows by P vectors of outputs, of codes of kind K, from vector `part` of the panel at `w` on. Memory is asked for
// outputs before, and for weights while, it is computed.
template <int M, int P, int K>
void tile_codes(const uint8_t *w, size_t panel, int part, Codes x, int in, float *y, int out, int column,
                const float *bias, Ahead ahead) {
  constexpr size_t EIGHT = code_bytes(K) / 4;  // of 8 inputs
  const int blocks = in / BLOCK;
  V sums[M][P] = {};
  for (int m = 0; m < M; m++)
    for (int p = 0; p < P; p++) __builtin_prefetch(y + (size_t)m * out + column + p * W, 1, 3);
  for (int b = 0; b < blocks; b++, w += block_bytes(K)) {
    for (int i = 0; i < ahead.lines; i++, ahead.at += LINE) __builtin_prefetch(ahead.at, 0, 2);
    Counts<K> counts[M][P];
#pragma GCC unroll UNROLL
    for (int k = 0; k < BLOCK; k += 8) {
      VB low[P], high[P];
      for (int p = 0; p < P; p++) {
        const uint8_t *at = w + k / 8 * EIGHT + p / PARTS * panel + (part + p % PARTS) * 4 * W;
        low[p] = load(at);
        high[p] = K == PLURAL_U4 ? low[p] >> 4 : load(at + EIGHT / 2);
        if (K == PLURAL_U4) low[p] &= 15;
      }
      const int8_t *codes = x.code + b * BLOCK + k;
      for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) counts[m][p].add(low[p], codes + (size_t)m * in);
      for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) counts[m][p].add(high[p], codes + (size_t)m * in + 4);
    }
    for (int p = 0; p < P; p++) {
      const _Float16 *halves = (const _Float16 *)(w + code_bytes(K) + p / PARTS * panel) + (part + p % PARTS) * W;
      const V scale = load(halves), minimum = load(halves + PANEL);
      for (int m = 0; m < M; m++) {
        const size_t at = (size_t)m * blocks + b;
        sums[m][p] = fma(counts[m][p].scaled(scale), splat(x.scale[at]), sums[m][p]);
        sums[m][p] = fma(minimum, splat(x.total[at]), sums[m][p]);
      }
    }
  }
  put_tile(sums, y, out, column, bias);
}

// P vectors of outputs from `column` on, for all rows.
template <int P, int K>
void rows_codes(const plural_weight &weight, Codes x, int rows, float *y, const float *bias, int column) {
  const int in = weight.in, out = weight.out;
  const size_t blocks = in / BLOCK, panel = panel_bytes(K, in);
  const uint8_t *w = (const uint8_t *)weight.data + column / PANEL * panel;
  const int passes = rows / MANY + rows % MANY / 4 + rows % 4;
  const int bytes = P * W * (int)block_bytes(K) / PANEL;  // of a block of so many vectors
  Ahead ahead{w + (P + PARTS - 1) / PARTS * panel, (bytes / LINE + passes - 1) / passes};  // what is next, in `passes` parts
  in_tiles<MANY>(rows, [&]<int M>(int r) {
    const Codes codes{x.code + (size_t)r * in, x.scale + r * blocks, x.total + r * blocks};
    tile_codes<M, P, K>(w, panel, column % PANEL / W, codes, in, y + (size_t)r * out, out, column, bias, ahead);
    ahead.at += blocks * ahead.lines * LINE;
  });
}

// The panels first..last-1 for all rows.
template <int K>
void linear_codes(const plural_weight &weight, Codes x, int rows, float *y, const float *bias, int first, int last) {
  constexpr int P = MANY_REGISTERS || K == PLURAL_U4 ? 2 : 1;
  int column = first * PANEL;
  for (; column + P * W <= last * PANEL; column += P * W) rows_codes<P, K>(weight, x, rows, y, bias, column);
  for (; column < last * PANEL; column += W) rows_codes<1, K>(weight, x, rows, y, bias, column);
}

// ---------------------------------------------------------------------------------------------------------------- LoRA
constexpr int SIDE = MANY_REGISTERS ? 4 : 2;  // ranks or vectors of columns of a tile of 4 rows

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
  const auto ranks = [&]<int J>(int j) {
    in_tiles<4>(rows, [&]<int M>(int r) {
      shrink_tile<M, J>(x + (size_t)r * in, in, a + (size_t)j * in, low + (size_t)r * width + j, width);
    });
  };
  int j = first;
  for (; j + SIDE <= last; j += SIDE) ranks.template operator()<SIDE>(j);
  for (; j < last; j++) ranks.template operator()<1>(j);
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
  const auto columns = [&]<int C>(int c) {
    in_tiles<4>(rows, [&]<int M>(int r) {
      expand_tile<M, C>(low + (size_t)r * width, width, rank, scale, b + c, out, y + (size_t)r * stride + c, stride);
    });
  };
  int c = first;
  for (; c + SIDE * W <= last; c += SIDE * W) columns.template operator()<SIDE>(c);
  for (; c < last; c += W) columns.template operator()<1>(c);
}

}  // namespace
