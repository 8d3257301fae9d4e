// Kernels for every processor: SSE2, NEON or what else the compiler makes of 16 bytes.
#include "cpu/select.h"

namespace lite_focus {

Kernel portable::select(Operator name, const Problem& problem) {
  return select_kernel<16>(name, problem);
}

}  // namespace lite_focus
