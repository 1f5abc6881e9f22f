// The C interface: every call goes to the build for the best instruction set that is in here and that this machine has.
#include "isa.h"

#if defined(__x86_64__)
extern "C" const Isa plural_isa_avx2, plural_isa_avx512vnni;
#else
extern "C" const Isa plural_isa_portable;
#endif

static const Isa *best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return &plural_isa_avx512vnni;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &plural_isa_avx2 : nullptr;
#else
  return &plural_isa_portable;
#endif
}

static const Isa *isa() {
  static const Isa *const chosen = best();
  return chosen;
}

extern "C" {

const char *plural_isa(void) { return isa() ? isa()->name : nullptr; }
int32_t plural_abi(void) { return PLURAL_ABI; }

size_t plural_weight_bytes(int32_t kind, int32_t in, int32_t out) { return isa()->weight_bytes(kind, in, out); }

int64_t plural_pack(int32_t kind, const float *source, int64_t in, int64_t out, int64_t stride_in, int64_t stride_out,
                    void *to) {
  return isa()->pack(kind, source, in, out, stride_in, stride_out, to);
}

int64_t plural_int8_rate(int64_t rounds) { return isa()->int8_rate(rounds); }

plural_program *plural_program_new(const plural_instruction *code, int32_t count, const int32_t *widths, int32_t buffers,
                                   int32_t states, const plural_weight *head, const plural_shape *shape,
                                   int32_t threads) {
  return (plural_program *)isa()->program_new(code, count, widths, buffers, states, head, shape, threads);
}

void plural_program_free(plural_program *program) { isa()->program_free(program); }

int32_t plural_program_run(plural_program *program, const plural_step *step) {
  return isa()->program_run(program, step);
}
}
