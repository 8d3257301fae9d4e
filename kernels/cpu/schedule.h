// How the work of an operator is divided among threads and brought into the cache.
#pragma once

#include "problem.h"

namespace lite_focus {

// Computes the operator on the CPU with the threads of threads.h. The result does not depend on
// their number.
void run_on_cpu(Operator name, const Problem& problem);

}  // namespace lite_focus
