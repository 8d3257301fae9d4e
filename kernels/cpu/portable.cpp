// Kernels for every processor: SSE2, NEON or what else the compiler makes of 16 bytes.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// Only few processors of this kind are without AVX2: for them a quarter less code counts more.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LITE_FOCUS_PORTABLE)
#pragma GCC optimize("O2")
#endif
#include "cpu/select.h"

namespace lite_focus {

Kernel portable::select(Operator name, const Problem& problem) {
  return select_kernel<16>(name, problem);
}

}  // namespace lite_focus
