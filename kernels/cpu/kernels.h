// The interface between the operators (register.cpp) and the code for one instruction set.
#pragma once

#include "problem.h"

namespace lite_focus {

// A kernel computes queries [first_query, last_query) and heads [first_head, last_head) of a
// problem of one image, and adds to the gradient of value of these heads. With a key of its own,
// key-aware attention takes kernels one after another: see the steps in schedule.cpp.
struct Range {
  int64_t first_query, last_query;
  int32_t first_head, last_head;
};

// `scratch` holds scratch_bytes() of sampling.h, aligned to 64 bytes.
using Kernel = void (*)(const Problem& problem, const Range& range, void* scratch);

namespace portable {
Kernel select(Operator name, const Problem& problem);
}
namespace avx2 {
Kernel select(Operator name, const Problem& problem);
}
namespace avx512 {
Kernel select(Operator name, const Problem& problem);
}

}  // namespace lite_focus
