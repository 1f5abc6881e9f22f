// Runs a recorded forward pass. Compiled once for each instruction set, each time as the namespace PLURAL_ISA.
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "logits.h"
#include "pack.h"
#include "plural_kernels.h"
#include "threads.h"

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)
#include "isa.h"

namespace {

constexpr int ROWS_AT_ONCE = 4;  // rows of one sequence that attend together

struct Program {
  std::vector<plural_instruction> code;
  std::vector<int32_t> widths;
  int32_t states;
  plural_weight head;
  plural_shape shape;
  Team team;

  std::vector<std::vector<float>> buffers;
  std::vector<int8_t> codes;
  std::vector<float> scales, totals, low, picked;
  std::vector<size_t> low_at;  // of a segment: where its rows' products with a begin in `low`
  std::vector<std::vector<float>> scratch;  // of a thread
  std::unique_ptr<std::atomic<int>[]> next;  // of an instruction: the next piece of attention to take
  int32_t widest = 0;

  Program(const plural_instruction *code, int32_t count, const int32_t *widths, int32_t buffers, int32_t states,
          const plural_weight &head, const plural_shape &shape, int32_t threads)
      : code(code, code + count), widths(widths, widths + buffers), states(states), head(head), shape(shape),
        team(threads), buffers(buffers), scratch(threads), next(new std::atomic<int>[count]) {
    widest = head.in;
    for (const auto &one : this->code)
      if (one.op == PLURAL_LINEAR) widest = std::max(widest, ((const plural_weight *)one.first)->in);
  }

  void reserve(const plural_step &step) {
    const auto grow = [](auto &buffer, size_t size) {
      if (buffer.size() < size) buffer.resize(size);
    };
    const size_t rows = std::max(step.rows, step.wanted_count);
    for (size_t i = 0; i < buffers.size(); i++) grow(buffers[i], step.rows * widths[i]);
    grow(codes, rows * widest);
    grow(scales, rows * widest / BLOCK);
    grow(totals, rows * widest / BLOCK);
    grow(picked, step.wanted_count * shape.hidden);
    int longest = 0;
    for (int64_t s = 0; s < step.spans_count; s++) longest = std::max(longest, step.spans[s].length);
    const int queries = ROWS_AT_ONCE * shape.heads / shape.kv_heads;
    for (auto &own : scratch) grow(own, attention_scratch(queries, shape.head_dim, longest));
    size_t lows = 0;
    low_at.resize(step.segments_count);
    for (int64_t s = 0; s < step.segments_count; s++) {
      const plural_segment &segment = step.segments[s];
      int ranks = 0;
      for (const auto &one : code)
        if (one.op == PLURAL_LINEAR) ranks = std::max(ranks, ranks_of(one, segment));
      low_at[s] = lows;
      lows += (size_t)ranks * (segment.stop - segment.start);
    }
    grow(low, lows);
  }

  const plural_module *modules_of(const plural_instruction &one, const plural_segment &segment) const {
    return segment.modules + (size_t)one.layer * shape.modules_per_layer + one.module;
  }

  int ranks_of(const plural_instruction &one, const plural_segment &segment) const {
    const plural_module *modules = modules_of(one, segment);
    int ranks = 0;
    for (int m = 0; m < one.modules; m++) ranks += modules[m].rank;
    return ranks;
  }
};

// One thread's way through a step.
struct Worker {
  Program &program;
  const plural_step &step;
  const int t, threads;

  float *buffer(int i) const { return program.buffers[i].data(); }
  int rows() const { return (int)step.rows; }
  std::pair<int, int> own_rows() const { return share(rows(), t, threads); }

  void run() {
    bool by_rows = true;
    for (size_t i = 0; i < program.code.size(); i++) {
      const plural_instruction &one = program.code[i];
      const bool next_by_rows = one.op != PLURAL_ATTEND;
      if (!by_rows || !next_by_rows) program.team.barrier.wait();
      by_rows = next_by_rows && one.op != PLURAL_LINEAR;
      perform(one, program.next[i]);
    }
    program.team.barrier.wait();
    finish();
  }

  void perform(const plural_instruction &one, std::atomic<int> &next) {
    switch (one.op) {
      case PLURAL_EMBED: return embed(one);
      case PLURAL_NORM: return norm(one);
      case PLURAL_LINEAR: return linear(one);
      case PLURAL_HEADS: return heads(one);
      case PLURAL_ATTEND: return attention(one, next);
      case PLURAL_ADD: return add(one);
      case PLURAL_SILU_MUL: return silu_mul(one);
    }
  }

  void embed(const plural_instruction &one) {
    const size_t hidden = program.shape.hidden;
    const auto [first, last] = own_rows();
    for (int r = first; r < last; r++)
      std::memcpy(buffer(one.to) + r * hidden, (const float *)one.first + step.ids[r] * hidden, hidden * sizeof(float));
  }

  void norm_row(const float *x, const float *weight, int width, float *to) const {
    V squares{};
    for (int i = 0; i < width; i += W) squares = fma(load(x + i), load(x + i), squares);
    const V inverse = splat(1.0f / std::sqrt(sum(squares) / (float)width + program.shape.eps));
    for (int i = 0; i < width; i += W) store(to + i, load(x + i) * inverse * load(weight + i));
  }

  void norm(const plural_instruction &one) {
    const int width = program.widths[one.a];
    const auto [first, last] = own_rows();
    for (int r = first; r < last; r++)
      norm_row(buffer(one.a) + (size_t)r * width, (const float *)one.first, width, buffer(one.to) + (size_t)r * width);
  }

  void add(const plural_instruction &one) {
    const size_t width = program.widths[one.to];
    const auto [first, last] = own_rows();
    for (size_t i = first * width; i < last * width; i += W)
      store(buffer(one.to) + i, load(buffer(one.a) + i) + load(buffer(one.b) + i));
  }

  void silu_mul(const plural_instruction &one) {
    const size_t width = program.widths[one.to];
    const auto [first, last] = own_rows();
    for (int r = first; r < last; r++) {
      const float *gate = buffer(one.a) + r * 2 * width, *up = gate + width;
      float *to = buffer(one.to) + r * width;
      for (size_t i = 0; i < width; i += W) {
        const V g = load(gate + i);
        store(to + i, g / (exp(-g) + 1.0f) * load(up + i));
      }
    }
  }

  void rotate(float *x, const float *cos, const float *sin, int dim) const {
    const int half = dim / 2;
    for (int i = 0; i < half; i++) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
  }

  // Norms and rotates q and k in place, and puts k and v where the row's sequence keeps them.
  void heads(const plural_instruction &one) {
    const plural_shape &shape = program.shape;
    const int dim = shape.head_dim, width = program.widths[one.a], size = shape.page_size;
    const auto [first, last] = own_rows();
    int s = 0;
    for (int r = first; r < last; r++) {
      while (step.spans[s].stop <= r) s++;
      const plural_span &span = step.spans[s];
      const int position = span.length - (span.stop - r);
      const int32_t page = step.pages[span.table + position / size];
      float *row = buffer(one.a) + (size_t)r * width;
      const float *cos = shape.cos_PD + step.positions[r] * dim, *sin = shape.sin_PD + step.positions[r] * dim;
      for (int h = 0; h < shape.heads + shape.kv_heads; h++) {
        const float *weight = (const float *)(h < shape.heads ? one.first : one.second);
        if (weight) norm_row(row + h * dim, weight, dim, row + h * dim);
        rotate(row + h * dim, cos, sin, dim);
      }
      float *to = step.memory + page * step.page_floats;
      for (int k = 0; k < shape.kv_heads; k++) {
        const float *key = row + (shape.heads + k) * dim, *value = key + shape.kv_heads * dim;
        float *keys = to + keys_at(one.layer, k) + position % size;
        for (int d = 0; d < dim; d++) keys[(size_t)d * size] = key[d];
        std::memcpy(to + values_at(one.layer, k) + (size_t)(position % size) * dim, value, dim * sizeof(float));
      }
    }
  }

  // Where a KV head's keys and values of a layer begin in a page.
  size_t keys_at(int layer, int k) const {
    const plural_shape &shape = program.shape;
    return (size_t)(2 * layer * shape.kv_heads + k) * shape.page_size * shape.head_dim;
  }
  size_t values_at(int layer, int k) const { return keys_at(layer, program.shape.kv_heads + k); }

  void attention(const plural_instruction &one, std::atomic<int> &next) {
    const plural_shape &shape = program.shape;
    const int dim = shape.head_dim, group = shape.heads / shape.kv_heads, width = program.widths[one.a];
    int piece = 0, mine = next.fetch_add(1, std::memory_order_relaxed);
    for (int64_t s = 0; s < step.spans_count; s++) {
      const plural_span &span = step.spans[s];
      for (int r = span.start; r < span.stop; r += ROWS_AT_ONCE)
        for (int k = 0; k < shape.kv_heads; k++, piece++) {
          if (piece != mine) continue;
          const int count = std::min(ROWS_AT_ONCE, span.stop - r), at = k * group * dim;
          const size_t out = shape.heads * dim;
          const Cache cache{step.memory + keys_at(one.layer, k), step.memory + values_at(one.layer, k),
                            (size_t)step.page_floats, shape.page_size};
          const Piece work{buffer(one.a) + (size_t)r * width + at, buffer(one.to) + r * out + at, (size_t)width, out,
                           count, span.length - (span.stop - r) + 1, step.pages + span.table};
          attend(work, group, dim, shape.scale, cache, program.scratch[t].data());
          mine = next.fetch_add(1, std::memory_order_relaxed);
        }
    }
  }

  Codes codes() const { return {program.codes.data(), program.scales.data(), program.totals.data()}; }

  void encode_rows(const float *x, int in, int first, int last) const {
    const Codes all = codes();
    const size_t blocks = in / BLOCK;
    for (int r = first; r < last; r++)
      encode(x + (size_t)r * in, in, {all.code + (size_t)r * in, all.scale + r * blocks, all.total + r * blocks});
  }

  void product(const plural_weight &weight, const float *x, int rows, float *y, const float *bias) const {
    if (!rows) return;  // a step may want no logits at all
    const auto [first, last] = share(panels(weight.out), t, threads, 2);
    switch (weight.kind) {
      case PLURAL_F32: return linear_float<float>(weight, x, rows, y, bias, first, last);
      case PLURAL_BF16: return linear_float<Bf16>(weight, x, rows, y, bias, first, last);
      case PLURAL_U8: return linear_codes<PLURAL_U8>(weight, codes(), rows, y, bias, first, last);
      case PLURAL_U4: return linear_codes<PLURAL_U4>(weight, codes(), rows, y, bias, first, last);
    }
  }

  void linear(const plural_instruction &one) {
    const plural_weight &weight = *(const plural_weight *)one.first;
    const float *x = buffer(one.a);
    if (coded(weight.kind)) {
      const auto [first, last] = own_rows();
      encode_rows(x, weight.in, first, last);
    }
    program.team.barrier.wait();
    product(weight, x, rows(), buffer(one.to), (const float *)one.second);
    if (!one.modules || !step.segments_count) return;
    shrink_all(one, x, weight.in);
    program.team.barrier.wait();
    expand_all(one, buffer(one.to), weight.out);
  }

  void shrink_all(const plural_instruction &one, const float *x, int in) const {
    for (int64_t s = 0; s < step.segments_count; s++) {
      const plural_segment &segment = step.segments[s];
      const plural_module *modules = program.modules_of(one, segment);
      const float *from = x + (size_t)segment.start * in;
      float *to = program.low.data() + program.low_at[s];
      const int width = program.ranks_of(one, segment), rows = segment.stop - segment.start;
      for (int m = 0; m < one.modules; to += modules[m++].rank) {
        const auto [first, last] = share(modules[m].rank, t, threads, 4);
        if (modules[m].half)
          shrink(from, rows, in, (const _Float16 *)modules[m].a, first, last, to, width);
        else
          shrink(from, rows, in, (const float *)modules[m].a, first, last, to, width);
      }
    }
  }

  void expand_all(const plural_instruction &one, float *y, int out) const {
    for (int64_t s = 0; s < step.segments_count; s++) {
      const plural_segment &segment = step.segments[s];
      const plural_module *modules = program.modules_of(one, segment);
      const float *low = program.low.data() + program.low_at[s];
      const int width = program.ranks_of(one, segment), rows = segment.stop - segment.start;
      for (int m = 0; m < one.modules; low += modules[m++].rank) {
        const plural_module &module = modules[m];
        if (!module.rank) continue;
        float *to = y + (size_t)segment.start * out + module.column;
        const auto [first, last] = share(module.out, t, threads, 4 * PANEL);
        const float scale = module.scale * segment.scale;
        if (module.half)
          expand(low, width, rows, module.rank, scale, (const _Float16 *)module.b, module.out, to, out, first, last);
        else
          expand(low, width, rows, module.rank, scale, (const float *)module.b, module.out, to, out, first, last);
      }
    }
  }

  // Hands out the final states, and computes and sums up the logits of the wanted rows.
  void finish() {
    const size_t hidden = program.shape.hidden;
    const float *states = buffer(program.states);
    const auto [first, last] = own_rows();
    std::memcpy(step.states + first * hidden, states + first * hidden, (last - first) * hidden * sizeof(float));
    for (int r = first; r < last; r++) {
      V wrong{};
      for (size_t i = 0; i < hidden; i += W) wrong = fma(load(states + r * hidden + i), V{}, wrong);
      step.finite[r] = sum(wrong) == 0;
    }
    const int wanted = (int)step.wanted_count;
    float *picked = program.picked.data();
    const auto [from, to] = share(wanted, t, threads);
    for (int i = from; i < to; i++)
      std::memcpy(picked + i * hidden, states + step.wanted[i] * hidden, hidden * sizeof(float));
    if (coded(program.head.kind)) encode_rows(picked, (int)hidden, from, to);
    program.team.barrier.wait();
    product(program.head, picked, wanted, step.logits, nullptr);
    program.team.barrier.wait();
    for (int i = from; i < to; i++)
      step.totals[i] = log_sum_exp(step.logits + (size_t)i * program.head.out, program.shape.vocab, step.best[i]);
  }
};

size_t weight_bytes(int32_t kind, int32_t in, int32_t out) { return panels(out) * panel_bytes(kind, in); }

int64_t pack(int32_t kind, const float *source, int64_t in, int64_t out, int64_t stride_in, int64_t stride_out,
             void *to) {
  const Source from{source, stride_in, stride_out, out};
  uint8_t *at = (uint8_t *)to;
  int64_t lossy = 0;
  for (int p = 0; p < panels((int)out); p++)
    for (int b = 0; b < in; b += BLOCK, at += block_bytes(kind)) {
      lossy += coded(kind) ? pack_codes(from, kind, b, p * PANEL, at) : pack_float(from, kind, b, p * PANEL, at);
      if (lossy && kind == PLURAL_U4) return lossy;
    }
  return lossy;
}

int64_t int8_rate(int64_t rounds) {
  constexpr int CHAINS = 8;  // enough to hide an instruction's latency
  Counts<PLURAL_U4> counts[CHAINS];
  VB weights[CHAINS];
  for (int c = 0; c < CHAINS; c++) weights[c] = VB{} + (uint8_t)c;  // no two alike, or one would do for both
  for (int64_t i = 0; i < rounds; i++) {
    const int8_t x[4] = {(int8_t)i, 1, -1, 2};  // another one each time, or products would be made once
    for (int c = 0; c < CHAINS; c++) counts[c].add(weights[c], x);
  }
  V total{};
  for (const auto &each : counts) total += each.scaled(splat(1.0f));
  volatile float kept = sum(total);  // or there would be nothing to do
  (void)kept;
  return rounds * CHAINS * W * 4 * 2;
}

void *program_new(const plural_instruction *code, int32_t count, const int32_t *widths, int32_t buffers, int32_t states,
                  const plural_weight *head, const plural_shape *shape, int32_t threads) {
  try {
    return new Program(code, count, widths, buffers, states, *head, *shape, threads);
  } catch (const std::exception &) {
    return nullptr;
  }
}

void program_free(void *program) { delete (Program *)program; }

int32_t program_run(void *handle, const plural_step *step) {
  Program &program = *(Program *)handle;
  try {
    program.reserve(*step);
  } catch (const std::bad_alloc &) {
    return -1;
  }
  for (size_t i = 0; i < program.code.size(); i++) program.next[i].store(0, std::memory_order_relaxed);
  program.team.run([&](int t) { Worker{program, *step, t, program.team.threads}.run(); });
  return 0;
}

}  // namespace

extern "C" const Isa ISA_SYMBOL = {NAME(PLURAL_ISA), weight_bytes, pack, int8_rate, program_new, program_free, program_run};
