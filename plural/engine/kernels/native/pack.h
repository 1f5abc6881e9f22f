// Packing: from fp32 weights, as a base is read, to the forms that linear.h multiplies.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>

#include "linear.h"

namespace {

struct Source {
  const float *w;
  int64_t stride_in, stride_out, out;
  float at(int64_t i, int64_t o) const { return o < out ? w[i * stride_in + o * stride_out] : 0.0f; }
};

// 32 weights of one output: w = scale * code + minimum.
struct Block {
  _Float16 scale, minimum;
  uint8_t codes[BLOCK];

  // Tries a scale and a minimum. True: every weight is held to the bit.
  bool fits(const float *w, float step, float low, int levels) {
    scale = (_Float16)step;
    minimum = (_Float16)low;
    step = (float)scale;
    low = (float)minimum;
    bool same = std::isfinite(step) && std::isfinite(low);
    const float inverse = step != 0 ? 1.0f / step : 0.0f;
    for (int k = 0; k < BLOCK; k++) {
      const float level = std::nearbyint((w[k] - low) * inverse);
      codes[k] = (uint8_t)std::min((float)levels, std::max(0.0f, level));
      const float product = step * (float)codes[k];  // exact: 11 bits times 8
      same &= product + low == w[k];
    }
    return same;
  }

  // Finds the block's own scale and minimum when its weights came from codes 0..levels of some; false when they did
  // not. What quantisers write is tried first: Q4_1 uses the first and the last level, Q8_0 has its largest at 127.
  bool recover(const float *w, int levels) {
    const auto [low, high] = std::minmax_element(w, w + BLOCK);
    const float top = std::max(*high, -*low);
    if (fits(w, (*high - *low) / 15.0f, *low, levels)) return true;
    if (levels < 255) return search(w, levels);
    return fits(w, top / 127.0f, (float)(_Float16)(top / 127.0f) * -128.0f, levels) || search(w, levels);
  }

  // Any scale (of either sign) and any minimum: fp16 numbers are whole multiples of 2^-24, so whole numbers it is.
  bool search(const float *w, int levels) {
    constexpr double UNIT = 16777216.0;
    int64_t units[BLOCK], common = 0;
    for (int k = 0; k < BLOCK; k++) {
      const double unit = (double)w[k] * UNIT;
      if (!(std::fabs(w[k]) < UNIT * 2) || unit != std::nearbyint(unit)) return false;
      units[k] = (int64_t)unit;
      common = std::gcd(common, units[k] - units[0]);
    }
    const auto [low, high] = std::minmax_element(units, units + BLOCK);
    if (!common) return fits(w, 0.0f, w[0], levels);
    const int64_t steps = (*high - *low) / common;
    const auto half = [](int64_t unit) { return (double)(_Float16)(unit / UNIT) * UNIT == (double)unit; };
    for (int64_t parts = 1; steps * parts <= levels; parts++) {
      const int64_t step = common / parts;
      if (common % parts || !half(step)) continue;
      for (int64_t spare = 0; spare <= levels - steps * parts; spare++) {
        const int64_t below = *low - step * spare, above = *high + step * spare;
        if (half(below) && fits(w, step / UNIT, below / UNIT, levels)) return true;
        if (half(above) && fits(w, -step / UNIT, above / UNIT, levels)) return true;
      }
    }
    return false;
  }
};

inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to the nearest, ties to even
}

// Packs the 32 inputs from `b` on of a panel's outputs. Returns how many of the 16 outputs are not held to the bit.
inline int pack_float(Source source, int kind, int b, int column, uint8_t *to) {
  int lossy = 0;
  for (int o = 0; o < PANEL; o++) {
    bool same = true;
    for (int k = 0; k < BLOCK; k++) {
      const float w = source.at(b + k, column + o);
      if (kind == PLURAL_F32) {
        ((float *)to)[k * PANEL + o] = w;
        continue;
      }
      Bf16 *at = (Bf16 *)to + k * PANEL + o;
      at->bits = to_bf16(w);
      same &= widened(*at) == w;
    }
    lossy += !same;
  }
  return lossy;
}

inline int pack_codes(Source source, int kind, int b, int column, uint8_t *to) {
  const int levels = kind == PLURAL_U4 ? 15 : 255;
  _Float16 *scales = (_Float16 *)(to + code_bytes(kind)), *minima = scales + PANEL;
  if (kind == PLURAL_U4) std::memset(to, 0, code_bytes(kind));
  int lossy = 0;
  for (int o = 0; o < PANEL; o++) {
    float w[BLOCK];
    for (int k = 0; k < BLOCK; k++) w[k] = source.at(b + k, column + o);
    Block block;
    if (!block.recover(w, levels)) {
      const auto [low, high] = std::minmax_element(w, w + BLOCK);
      block.fits(w, (*high - *low) / (float)levels, *low, levels);
      lossy++;
    }
    scales[o] = block.scale;
    minima[o] = block.minimum;
    for (int k = 0; k < BLOCK; k++)
      if (kind == PLURAL_U4)
        to[k / 8 * 4 * PANEL + o * 4 + k % 4] |= (uint8_t)(block.codes[k] << (k % 8 / 4 * 4));
      else
        to[k / 4 * 4 * PANEL + o * 4 + k % 4] = block.codes[k];
  }
  return lossy;
}

}  // namespace
