// What drawing a token asks of a row of logits, while it is still in the cache.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"

namespace {

// The next sixteen of `count` numbers; `fill` where there are no more.
inline V some(const float *x, int count, float fill) {
  if (count >= W) return load(x);
  V v = splat(fill);
  for (int i = 0; i < count; i++) v[i] = x[i];
  return v;
}

// The logarithm of the sum of the exponentials; NaN where a number is not finite. `best` becomes where the first of the
// largest stands.
inline float log_sum_exp(const float *x, int count, int32_t &best) {
  V most = splat(x[0]), wrong{};
  for (int i = 0; i < count; i += W) {
    const V v = some(x + i, count - i, x[0]);
    most = larger(most, v);
    wrong = fma(v, V{}, wrong);
  }
  best = 0;
  if (sum(wrong) != 0) return NAN;
  const float top = largest(most);
  V sums[4] = {};
  for (int i = 0; i < count; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      const int at = i + j * W;
      if (at < count) sums[j] += exp(some(x + at, count - at, -INFINITY) - top);
    }
  best = (int32_t)(std::find(x, x + count, top) - x);
  return top + std::log(sum(sums[0] + sums[1] + (sums[2] + sums[3])));
}

}  // namespace
