// The interface between the operators (register.cpp) and the CUDA kernels.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace lite_focus {

// One operator each, by the kind of `problem`.
cudaError_t launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream);
cudaError_t launch_key_aware_deform_attn(const Problem& problem, bool backward,
                                         cudaStream_t stream);

// Launches an operator on a stream of the current device; the gradients of value and key are set
// to zero first.
inline cudaError_t run_on_cuda(Operator name, const Problem& problem, cudaStream_t stream) {
  const bool backward =
      name == Operator::kMsDeformAttnBackward || name == Operator::kKeyAwareDeformAttnBackward;
  const bool keyed =
      name == Operator::kKeyAwareDeformAttn || name == Operator::kKeyAwareDeformAttnBackward;
  if (backward) {
    const size_t bytes = size_t(problem.batch) * problem.tokens * problem.heads * problem.channels *
                         (problem.kind == ScalarKind::kDouble ? 8 : 4);
    for (void* gradient : {problem.grad_value, problem.grad_key}) {
      const cudaError_t status =
          gradient == nullptr ? cudaSuccess : cudaMemsetAsync(gradient, 0, bytes, stream);
      if (status != cudaSuccess) {
        return status;
      }
    }
  }
  if (problem.batch * problem.queries * problem.heads * problem.channels == 0) {
    return cudaSuccess;
  }
  return keyed ? launch_key_aware_deform_attn(problem, backward, stream)
               : launch_ms_deform_attn(problem, backward, stream);
}

}  // namespace lite_focus
