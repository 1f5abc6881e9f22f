/* The C interface of Plural's native kernels. Plain pointers and sizes: no torch, no Python.
 *
 * A program is the decoder's forward pass, recorded once: a list of instructions over numbered buffers. One call runs
 * it for the flat rows of one step, on all threads. Every result is a function of its own row, adapter and sequence:
 * no sum depends on how many rows there are, on threads, or on how a sequence was cut into steps.
 */
#ifndef PLURAL_KERNELS_H
#define PLURAL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLURAL_ABI 4
#define PLURAL_API __attribute__((visibility("default")))

enum { PLURAL_F32 = 0, PLURAL_U8 = 1, PLURAL_BF16 = 2, PLURAL_U4 = 3 };

/* A linear's weights in panels of 16 outputs. F32 and BF16: [panel][in][16]. U8 and U4: [panel][in / 32], each block its
 * codes and then 16 scales and 16 minima in fp16: w = scale * code + minimum. U8: [8][16 outputs][4 inputs] bytes. U4:
 * [4][16 outputs][4] bytes, inputs 8n..8n+3 in the lower halves and 8n+4..8n+7 in the upper ones. */
typedef struct {
  const void *data;
  int32_t kind, in, out, unused;
} plural_weight;

enum { PLURAL_EMBED, PLURAL_NORM, PLURAL_LINEAR, PLURAL_HEADS, PLURAL_ATTEND, PLURAL_ADD, PLURAL_SILU_MUL };

/* `to`, `a`, `b` are buffers. What `first`, `second` point to depends on the operation:
 * EMBED the table; NORM the weight; LINEAR a plural_weight and the bias (or null); HEADS the norms of q and k (or null).
 * `module` is the index in the adapter of a LINEAR's first module, `modules` how many it has (0: no adapter). */
typedef struct {
  int32_t op, to, a, b, layer, module, modules, unused;
  const void *first, *second;
} plural_instruction;

typedef struct {
  int32_t hidden, heads, kv_heads, head_dim, vocab, page_size, modules_per_layer, unused;
  float eps, scale;
  const float *cos_PD, *sin_PD; /* positions x head_dim */
} plural_shape;

/* LoRA of one module: a is rank x in, b is rank x out, both fp16 (half = 1) or fp32. rank 0: not adapted. */
typedef struct {
  const void *a, *b;
  int32_t rank, half, column, out;
  float scale;
  int32_t unused;
} plural_module;

typedef struct {
  int32_t start, stop, length, table; /* `table`: where its block table starts in plural_step.pages */
} plural_span;

typedef struct {
  int32_t start, stop;
  float scale;
  int32_t unused;
  const plural_module *modules; /* layers x modules_per_layer */
} plural_segment;

/* Segments may overlap: a row wears all that it lies in, in their order.
 * A page has `page_floats` floats: per layer the keys [kv_head][head_dim][token], then the values
 * [kv_head][token][head_dim]. */
typedef struct {
  int64_t rows, spans_count, segments_count, wanted_count, page_floats;
  const int64_t *ids, *positions, *wanted;
  const plural_span *spans;
  const int32_t *pages;
  const plural_segment *segments;
  float *memory; /* page after page */
  float *states; /* rows x hidden, after the final norm */
  float *logits; /* wanted_count x the head's outputs */
  uint8_t *finite; /* rows: whether all of a row's states are */
  float *totals;   /* wanted_count: of a row's first `vocab` logits the logarithm of the sum of their exponentials; NaN
                      where one is not finite */
  int32_t *best;   /* wanted_count: which of those is the largest, the first of equals */
} plural_step;

typedef struct plural_program plural_program;

/* The instruction set in use ("avx512vnni", "avx2", "dotprod", "neon", "portable"), or null: none of those in here runs on this machine.
 * Nothing else may be called then. */
PLURAL_API const char *plural_isa(void);
PLURAL_API int32_t plural_abi(void);

PLURAL_API size_t plural_weight_bytes(int32_t kind, int32_t in, int32_t out);
/* Packs fp32 weights, w(i, o) = source[i * stride_in + o * stride_out], into `to`. Returns how many blocks (32 inputs of
 * an output) are not held to the bit: codes find a block's own scale and minimum where it has some in fp16. U4 is for
 * those alone and stops at the first block that has none. */
PLURAL_API int64_t plural_pack(int32_t kind, const float *source, int64_t in, int64_t out, int64_t stride_in,
                               int64_t stride_out, void *to);

/* Does int8 products of what lies in registers, on one thread: what a core can do at most, for whoever wants to know how
 * near the linears come. Returns how many multiplications and additions they were. */
PLURAL_API int64_t plural_int8_rate(int64_t rounds);

/* `widths` are the buffers' columns. `states` is the buffer whose rows `head` reads and plural_step.states receives.
 * The instructions are copied; what they point to must outlive the program. Null when out of memory. */
PLURAL_API plural_program *plural_program_new(const plural_instruction *code, int32_t count, const int32_t *widths, int32_t buffers,
                                   int32_t states, const plural_weight *head, const plural_shape *shape,
                                   int32_t threads);
PLURAL_API void plural_program_free(plural_program *);
/* 0, or -1 when out of memory. One call at a time for one program. */
PLURAL_API int32_t plural_program_run(plural_program *, const plural_step *);

#ifdef __cplusplus
}
#endif
#endif
