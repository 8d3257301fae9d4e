// Kernels for processors with AVX2. The standard headers come before the pragma, so that their
// functions stay usable everywhere.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LITE_FOCUS_PORTABLE)

#include <immintrin.h>

// In C++ the pragma does not define the macros of the compiler.
#define LITE_FOCUS_AVX2
#pragma GCC target("avx2,fma,f16c,bmi2")
#include "cpu/select.h"

namespace lite_focus {

Kernel avx2::select(Operator name, const Problem& problem) {
  return select_kernel<32>(name, problem);
}

}  // namespace lite_focus

#else
#include "cpu/kernels.h"

namespace lite_focus {

Kernel avx2::select(Operator, const Problem&) { return nullptr; }

}  // namespace lite_focus
#endif
