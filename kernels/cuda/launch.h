// The interface between the operators (register.cpp) and the CUDA kernels.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace lite_focus {

// Launches an operator on a stream of the current device; the gradients of value and key are set
// to zero first.
cudaError_t run_on_cuda(Operator name, const Problem& problem, cudaStream_t stream);

// One operator each, by the kind of `problem`.
cudaError_t launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream);
cudaError_t launch_key_aware_deform_attn(const Problem& problem, bool backward,
                                         cudaStream_t stream);

}  // namespace lite_focus
