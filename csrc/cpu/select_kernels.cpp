#include "select_kernels.h"

#include <c10/util/Exception.h>

#if defined(GUMBEL_EXT_AVX2) || defined(GUMBEL_EXT_AVX512)
#define GUMBEL_EXT_X86
#include <cpuid.h>
#endif

#include <cstdlib>

namespace gumbel_ext::cpu {

namespace avx512 {
extern const KernelTable kernels;
}
namespace avx2 {
extern const KernelTable kernels;
}
namespace neon {
extern const KernelTable kernels;
}
namespace plain {
extern const KernelTable kernels;
}

namespace {

#if defined(GUMBEL_EXT_X86)
// All that -march=x86-64-v3 lets a compiler use beyond AVX; not every compiler has names for F16C and LZCNT.
[[maybe_unused]] bool has_x86_64_v3() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  const bool has_lzcnt = __get_cpuid(0x80000001u, &a, &b, &c, &d) != 0 && (c & bit_LZCNT) != 0;
  return has_f16c && has_lzcnt && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

[[maybe_unused]] bool has_x86_64_v4() {
  return has_x86_64_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

const std::vector<const KernelTable*>& available_kernels() {
  static const auto available = [] {
    std::vector<const KernelTable*> tables;
#if defined(GUMBEL_EXT_AVX512)
    if (has_x86_64_v4()) tables.push_back(&avx512::kernels);
#endif
#if defined(GUMBEL_EXT_AVX2)
    if (has_x86_64_v3()) tables.push_back(&avx2::kernels);
#endif
#if defined(GUMBEL_EXT_NEON)
    tables.push_back(&neon::kernels);  // every aarch64 has it
#endif
    tables.push_back(&plain::kernels);
    return tables;
  }();
  return available;
}

const KernelTable& kernel_table() {
  static const KernelTable& chosen = []() -> const KernelTable& {
    const char* wanted = std::getenv("GUMBEL_EXT_CPU_ISA");
    if (wanted == nullptr || *wanted == '\0') return *available_kernels().front();
    std::string names;
    for (const KernelTable* table : available_kernels()) {
      if (std::string(wanted) == table->isa) return *table;
      names += (names.empty() ? "" : ", ") + std::string(table->isa);
    }
    TORCH_CHECK_VALUE(false, "GUMBEL_EXT_CPU_ISA: expected one of ", names, ", got ", wanted);
  }();
  return chosen;
}

}  // namespace gumbel_ext::cpu
