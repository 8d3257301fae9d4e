// Kernels for processors with AVX-512. The standard headers come before the pragma, so that their
// functions stay usable everywhere.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LITE_FOCUS_PORTABLE)

#include <immintrin.h>

// In C++ the pragma does not define the macros of the compiler.
#define LITE_FOCUS_AVX512
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#include "cpu/select.h"

namespace lite_focus {

Kernel avx512::select(Operator name, const Problem& problem) {
  const Kernel kernel = select_kernel<64>(name, problem);
  return kernel == nullptr ? avx2::select(name, problem) : kernel;
}

}  // namespace lite_focus

#else
#include "cpu/kernels.h"

namespace lite_focus {

Kernel avx512::select(Operator, const Problem&) { return nullptr; }

}  // namespace lite_focus
#endif
