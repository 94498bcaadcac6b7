// Which copy of the kernels runs on this processor.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace gumbel_ext::cpu {

// The copies this processor can run, the fastest first.
const std::vector<const KernelTable*>& available_kernels();

// The copy in use: the fastest, or the one that the environment variable GUMBEL_EXT_CPU_ISA names when
// the library first asks (an error, saying which there are, where it names none of them).
const KernelTable& kernel_table();

}  // namespace gumbel_ext::cpu
