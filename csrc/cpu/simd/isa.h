// The kernels are compiled once for each instruction set, each copy in a namespace of its own, from the
// same source: same operations in the same order, so same bits. GUMBEL_EXT_ISA names the copy.
#pragma once

#include "../../core/portability.h"

#ifndef GUMBEL_EXT_ISA
#error "kernels.cpp must be compiled with -DGUMBEL_EXT_ISA=<name of the instruction set>"
#endif

// For kernels that would crowd out each other's registers as parts of one function.
#define GUMBEL_EXT_NOINLINE __attribute__((noinline))

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(GUMBEL_EXT_NEON)
#include <arm_neon.h>
#endif

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
