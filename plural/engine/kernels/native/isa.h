// What one instruction set's build of program.cpp offers to dispatch.cpp.
#pragma once
#include "plural_kernels.h"

struct Isa {
  const char *name;
  size_t (*weight_bytes)(int32_t, int32_t, int32_t);
  int64_t (*pack)(int32_t, const float *, int64_t, int64_t, int64_t, int64_t, void *);
  int64_t (*int8_rate)(int64_t);
  void *(*program_new)(const plural_instruction *, int32_t, const int32_t *, int32_t, int32_t, const plural_weight *,
                       const plural_shape *, int32_t);
  void (*program_free)(void *);
  int32_t (*program_run)(void *, const plural_step *);
};

#define ISA_JOIN(isa) plural_isa_##isa
#define ISA_NAME(isa) ISA_JOIN(isa)
#define ISA_SYMBOL ISA_NAME(PLURAL_ISA)
