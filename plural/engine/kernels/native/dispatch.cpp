// The C interface: every call goes to the build for the best instruction set that is in here and that this machine has.
// Which builds are in here, PLURAL_HAS_... says (hatch_build.py).
#include "isa.h"
#if defined(__x86_64__)
#include <cpuid.h>

// All that the compiler may use with -march=x86-64-v3: a virtual machine may hide any of it.
static bool runs_avx2() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool cx16 = c >> 13 & 1, movbe = c >> 22 & 1, f16c = c >> 29 & 1;
  if (!__get_cpuid(0x80000001, &a, &b, &c, &d)) return false;
  const bool lahf_sahf = c & 1, lzcnt = c >> 5 & 1;
  return cx16 && movbe && f16c && lahf_sahf && lzcnt && __builtin_cpu_supports("sse3") &&
         __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2") &&
         __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

// The same for -march=x86-64-v4 -mavx512vnni.
static bool runs_avx512vnni() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// Dot products of bytes (Armv8.2's FEAT_DotProd).
static bool runs_dotprod() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  int there = 0;
  size_t size = sizeof there;
  return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &there, &size, nullptr, 0) && there;
#else
  return false;
#endif
}
#endif

extern "C" const Isa plural_isa_avx512vnni, plural_isa_avx2, plural_isa_dotprod, plural_isa_neon, plural_isa_portable;

static const Isa *best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#ifdef PLURAL_HAS_avx512vnni
  if (runs_avx512vnni()) return &plural_isa_avx512vnni;
#endif
#ifdef PLURAL_HAS_avx2
  if (runs_avx2()) return &plural_isa_avx2;
#endif
#ifdef PLURAL_HAS_dotprod
  if (runs_dotprod()) return &plural_isa_dotprod;
#endif
#ifdef PLURAL_HAS_neon
  return &plural_isa_neon;
#endif
#ifdef PLURAL_HAS_portable
  return &plural_isa_portable;
#else
  return nullptr;
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
