// Paged attention. A row reads the tokens of its own sequence, in order, and nothing else.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"

namespace {

constexpr int AT_ONCE = 8;  // query heads (of some rows) that share one reading of the keys

// scores[i * room + n] = q[i] . key n, for I queries and the 16 tokens at `keys`, which lie [head_dim][token].
template <int I>
void score16(const float *q, int dim, const float *keys, int page_size, float *scores, size_t room) {
  V sums[I] = {};
  for (int d = 0; d < dim; d++) {
    const V k = load(keys + (size_t)d * page_size);
    for (int i = 0; i < I; i++) sums[i] = fma(splat(q[(size_t)i * dim + d]), k, sums[i]);
  }
  for (int i = 0; i < I; i++) store(scores + i * room, sums[i]);
}

inline void score(int queries, const float *q, int dim, const float *keys, int page_size, float *scores, size_t room) {
  int i = 0;
  for (; i + 8 <= queries; i += 8) score16<8>(q + (size_t)i * dim, dim, keys, page_size, scores + i * room, room);
  for (; i + 3 <= queries; i += 3) score16<3>(q + (size_t)i * dim, dim, keys, page_size, scores + i * room, room);
  for (; i < queries; i++) score16<1>(q + (size_t)i * dim, dim, keys, page_size, scores + i * room, room);
}

// Turns the first `count` scores into probabilities; what follows in the last vector becomes exactly 0.
inline void softmax(float *scores, int count) {
  const int whole = (count + W - 1) / W * W;
  for (int n = count; n < whole; n++) scores[n] = -INFINITY;
  V top = load(scores);
  for (int n = W; n < whole; n += W) top = larger(top, load(scores + n));
  const V best = splat(largest(top));
  V sums{};
  for (int n = 0; n < whole; n += W) {
    const V weight = exp(load(scores + n) - best);
    store(scores + n, weight);
    sums += weight;
  }
  const V total = splat(1.0f / sum(sums));
  for (int n = 0; n < whole; n += W) store(scores + n, load(scores + n) * total);
}

// What one KV head has in one layer: token n of page p lies at p * `stride` floats from here.
struct Cache {
  const float *keys, *values;
  size_t stride;
  int page_size;
};

// out[g] = sum over tokens of weight[g][n] * value n, for G heads and C vectors of the head's width from `column` on.
template <int G, int C>
void mix_tile(const float *weights, size_t room, int count, const Cache &cache, const int32_t *pages, int dim,
              int column, float *out) {
  V sums[G][C] = {};
  for (int start = 0; start < count; start += cache.page_size) {
    const float *page = cache.values + (size_t)pages[start / cache.page_size] * cache.stride + column;
    const int stop = std::min(count - start, cache.page_size);
    for (int n = 0; n < stop; n++)
      for (int c = 0; c < C; c++) {
        const V v = load(page + (size_t)n * dim + c * W);
        for (int g = 0; g < G; g++) sums[g][c] = fma(splat(weights[g * room + start + n]), v, sums[g][c]);
      }
  }
  for (int g = 0; g < G; g++)
    for (int c = 0; c < C; c++) store(out + (size_t)g * dim + column + c * W, sums[g][c]);
}

template <int G>
void mix(const float *weights, size_t room, int count, const Cache &cache, const int32_t *pages, int dim, float *out) {
  int c = 0;
  for (; c + 4 * W <= dim; c += 4 * W) mix_tile<G, 4>(weights, room, count, cache, pages, dim, c, out);
  for (; c < dim; c += W) mix_tile<G, 1>(weights, room, count, cache, pages, dim, c, out);
}

// Rows of one sequence under one KV head. q and out: the group's heads of the first row; `stride` floats lie between
// rows. The first row sees `seen` tokens, each next one more.
struct Piece {
  const float *q;
  float *out;
  size_t q_stride, out_stride;
  int rows, seen;
  const int32_t *pages;
};

// The floats of `scratch` that a piece may need when its last row sees `length` tokens.
inline size_t attention_scratch(int queries, int dim, int length) {
  return (size_t)queries * ((length + W - 1) / W * W + dim);
}

inline void attend(const Piece &piece, int group, int dim, float scale, const Cache &cache, float *scratch) {
  const int last = piece.seen + piece.rows - 1, queries = piece.rows * group;
  const size_t room = (size_t)(last + W - 1) / W * W;
  float *q = scratch, *scores = q + (size_t)queries * dim;
  for (int r = 0; r < piece.rows; r++)
    for (int i = 0; i < group * dim; i++) q[(size_t)r * group * dim + i] = piece.q[r * piece.q_stride + i] * scale;
  for (int n = 0; n < last; n += W) {
    const float *page = cache.keys + (size_t)piece.pages[n / cache.page_size] * cache.stride;
    score(queries, q, dim, page + n % cache.page_size, cache.page_size, scores + n, room);
  }
  for (int r = 0; r < piece.rows; r++) {
    float *weights = scores + (size_t)r * group * room, *out = piece.out + r * piece.out_stride;
    for (int g = 0; g < group; g++) softmax(weights + g * room, piece.seen + r);
    int g = 0;
    const auto at = [&](auto step) {
      mix<decltype(step)::value>(weights + g * room, room, piece.seen + r, cache, piece.pages, dim, out + (size_t)g * dim);
      g += decltype(step)::value;
    };
    while (g + 3 <= group) at(std::integral_constant<int, 3>{});
    while (g + 2 <= group) at(std::integral_constant<int, 2>{});
    while (g < group) at(std::integral_constant<int, 1>{});
  }
}

}  // namespace
