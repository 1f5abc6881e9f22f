// Runs a small decoder on this build's kernels and prints what comes out: every operation, every kind of weights.
#include <cstdio>
#include <cstring>
#include <vector>

#include "plural_kernels.h"

static uint32_t state = 1;
static float drawn() {  // -1 to 1
  state = state * 1664525u + 1013904223u;
  return (float)(int32_t)state / 2147483648.0f;
}
static std::vector<float> floats(size_t n, float scale = 1.0f) {
  std::vector<float> made(n);
  for (float &one : made) one = drawn() * scale;
  return made;
}
// Weights that U4 holds to the bit: blocks of 32 inputs with a scale, a minimum and 16 levels.
static std::vector<float> four_bits(int in, int out) {
  std::vector<float> w((size_t)in * out);
  for (int o = 0; o < out; o++)
    for (int b = 0; b < in; b += 32)
      for (int k = 0; k < 32; k++) {
        state = state * 1664525u + 1013904223u;
        const int code = k == 0 ? 0 : k == 1 ? 15 : (int)(state >> 28);
        w[(size_t)o * in + b + k] = 0.015625f * (float)code - 0.125f;
      }
  return w;
}

constexpr int HIDDEN = 96, HEADS = 4, KV = 2, DIM = 24, FFN = 128, VOCAB = 250, PAGE = 16, PAGES = 12, LAYERS = 2;

struct Packed {
  std::vector<uint8_t> data;
  plural_weight weight;
};

static Packed pack(int kind, int in, int out) {
  const auto w = four_bits(in, out);
  Packed made;
  made.data.resize(plural_weight_bytes(kind, in, out) + 64);
  void *at = (void *)(((uintptr_t)made.data.data() + 63) / 64 * 64);
  const long long lossy = plural_pack(kind, w.data(), in, out, 1, in, at);
  std::printf("lossy %d %lld\n", kind, lossy);
  made.weight = {at, kind, in, out, 0};
  return made;
}

int main() {
  std::printf("isa %s\n", plural_isa());
  for (int kind = 0; kind < 4; kind++) {
    state = 7;
    const int q = HEADS * DIM, kv = KV * DIM;
    auto table = floats((size_t)VOCAB * HIDDEN), norm = floats(HIDDEN), cos = floats(256 * DIM), sin = floats(256 * DIM);
    std::vector<Packed> packed;
    packed.reserve(5 * LAYERS + 1);
    for (int l = 0; l < LAYERS; l++) {
      packed.push_back(pack(kind, HIDDEN, q + 2 * kv));
      packed.push_back(pack(kind, q, HIDDEN));
      packed.push_back(pack(kind, HIDDEN, 2 * FFN));
      packed.push_back(pack(kind, FFN, HIDDEN));
    }
    packed.push_back(pack(kind, HIDDEN, VOCAB));
    // Buffers: 0 stream, 1 normed, 2 qkv, 3 heads, 4 attended, 5 projected, 6 gate and up, 7 activated
    const int32_t widths[] = {HIDDEN, HIDDEN, q + 2 * kv, q, q, HIDDEN, 2 * FFN, FFN};
    std::vector<plural_instruction> code;
    const auto op = [&](int32_t what, int to, int a, int b, int layer, int module, int modules, const void *first) {
      code.push_back({what, to, a, b, layer, module, modules, 0, first, nullptr});
    };
    op(PLURAL_EMBED, 0, 0, 0, 0, 0, 0, table.data());
    for (int l = 0; l < LAYERS; l++) {
      op(PLURAL_NORM, 1, 0, 0, l, 0, 0, norm.data());
      op(PLURAL_LINEAR, 2, 1, 0, l, 0, 3, &packed[4 * l].weight);
      op(PLURAL_HEADS, 3, 2, 0, l, 0, 0, nullptr);
      op(PLURAL_ATTEND, 4, 3, 0, l, 0, 0, nullptr);
      op(PLURAL_LINEAR, 5, 4, 0, l, 3, 1, &packed[4 * l + 1].weight);
      op(PLURAL_ADD, 0, 0, 5, l, 0, 0, nullptr);
      op(PLURAL_NORM, 1, 0, 0, l, 0, 0, norm.data());
      op(PLURAL_LINEAR, 6, 1, 0, l, 4, 2, &packed[4 * l + 2].weight);
      op(PLURAL_SILU_MUL, 7, 6, 0, l, 0, 0, nullptr);
      op(PLURAL_LINEAR, 5, 7, 0, l, 6, 1, &packed[4 * l + 3].weight);
      op(PLURAL_ADD, 0, 0, 5, l, 0, 0, nullptr);
    }
    op(PLURAL_NORM, 1, 0, 0, 0, 0, 0, norm.data());
    const plural_shape shape{HIDDEN, HEADS, KV, DIM, VOCAB, PAGE, 7, 0, 1e-5f, 0.2f, cos.data(), sin.data()};
    plural_program *program = plural_program_new(code.data(), (int)code.size(), widths, 8, 1, &packed.back().weight,
                                                 &shape, 1);
    const int page_floats = LAYERS * 2 * KV * DIM * PAGE;
    auto memory = floats((size_t)PAGES * page_floats);
    // An adapter of rank 5 on all modules, its factors in fp16.
    const int ins[] = {HIDDEN, HIDDEN, HIDDEN, q, HIDDEN, HIDDEN, FFN}, outs[] = {q, kv, kv, HIDDEN, FFN, FFN, HIDDEN};
    const int columns[] = {0, q, q + kv, 0, 0, FFN, 0};
    std::vector<std::vector<_Float16>> factors;
    std::vector<plural_module> modules;
    for (int m = 0; m < 7 * LAYERS; m++) {
      std::vector<_Float16> a(5 * ins[m % 7]), b(5 * outs[m % 7]);
      for (auto &one : a) one = (_Float16)(drawn() * 0.1f);
      for (auto &one : b) one = (_Float16)(drawn() * 0.1f);
      factors.push_back(a);
      factors.push_back(b);
    }
    for (int m = 0; m < 7 * LAYERS; m++)
      modules.push_back({factors[2 * m].data(), factors[2 * m + 1].data(), 5, 1, columns[m % 7], outs[m % 7], 1.0f, 0});
    constexpr int ROWS = 27;
    std::vector<int64_t> ids, positions, wanted{5, 19, 26};
    for (int r = 0; r < ROWS; r++) ids.push_back((r * 37) % VOCAB), positions.push_back(r < 20 ? r : 30 + r);
    const std::vector<int32_t> pages{1, 2, 3, 4, 5, 6, 7};
    const std::vector<plural_span> spans{{0, 20, 20, 0}, {20, 27, 57, 3}};
    const std::vector<plural_segment> segments{{8, 27, 0.5f, 0, modules.data()}};
    std::vector<float> states(ROWS * HIDDEN), logits(3 * (VOCAB + 16)), totals(3);
    std::vector<uint8_t> finite(ROWS);
    std::vector<int32_t> best(3);
    const plural_step step{ROWS, 2, 1, 3, page_floats, ids.data(), positions.data(), wanted.data(), spans.data(),
                           pages.data(), segments.data(), memory.data(), states.data(), logits.data(), finite.data(),
                           totals.data(), best.data()};
    std::printf("kind %d rc %d\n", kind, plural_program_run(program, &step));
    for (int r = 0; r < 3; r++) std::printf("best %d total %.6f\n", best[r], totals[r]);
    for (int i = 0; i < 3 * VOCAB; i += 11) std::printf("%.6f\n", logits[i]);
    for (int i = 0; i < ROWS * HIDDEN; i += 101) std::printf("%.6f %d\n", states[i], finite[i / HIDDEN]);
    plural_program_free(program);
  }
}
