// The interface between the operators (operators.h) and the CUDA kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <initializer_list>
#include <sstream>
#include <string>

#include "problem.h"

namespace lite_focus {

// What became of an operator's launch.
struct LaunchStatus {
  cudaError_t error = cudaSuccess;
  // Bytes of shared memory that a block needs and that the GPU has, where these do not suffice.
  size_t needed_bytes = 0;
  size_t available_bytes = 0;

  bool ok() const { return error == cudaSuccess && needed_bytes == 0; }
};

inline std::string describe(const LaunchStatus& status, const Problem& problem) {
  if (status.needed_bytes == 0) {
    return cudaGetErrorString(status.error);
  }
  std::ostringstream text;
  text << problem.levels << " levels of " << problem.points << " points need "
       << status.needed_bytes << " bytes of shared memory, the GPU has " << status.available_bytes
       << "; LITE_FOCUS_DETR_OPS=reference in the environment computes it with PyTorch operations";
  return text.str();
}

// One operator each, by the kind of `problem`.
LaunchStatus launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream);
LaunchStatus launch_key_aware_deform_attn(const Problem& problem, bool backward,
                                          cudaStream_t stream);

// Memory of the device that is set to zero; none if `start` is null.
struct Zeros {
  void* start;
  size_t bytes;
};

inline cudaError_t clear(std::initializer_list<Zeros> memory, cudaStream_t stream) {
  for (const Zeros& zeros : memory) {
    const cudaError_t status =
        zeros.start == nullptr ? cudaSuccess : cudaMemsetAsync(zeros.start, 0, zeros.bytes, stream);
    if (status != cudaSuccess) {
      return status;
    }
  }
  return cudaSuccess;
}

// What the kernels add to.
inline cudaError_t clear_sums(const Problem& problem, cudaStream_t stream) {
  const size_t exact = problem.kind == ScalarKind::kDouble ? 8 : 4;
  const size_t numbers = size_t(problem.batch) * problem.tokens * problem.heads * problem.channels;
  return clear({{problem.grad_value, numbers * exact},
                {problem.grad_key, numbers * exact},
                {problem.fixed_value, numbers * 8},
                {problem.fixed_key, numbers * 8},
                {problem.largest_terms, 16}},
               stream);
}

// Without channels nothing is computed, but points and weights have gradients: zeros.
inline cudaError_t clear_gradients_of_points(const Problem& problem, cudaStream_t stream) {
  const size_t exact = problem.kind == ScalarKind::kDouble ? 8 : 4;
  const size_t half_or_exact =
      problem.kind == ScalarKind::kBFloat16 || problem.kind == ScalarKind::kHalf ? 2 : exact;
  const size_t items = size_t(problem.batch) * problem.queries * problem.heads;
  const size_t points = items * problem.points;
  return clear({{problem.grad_sampling, points * problem.point_levels * 2 *
                                            (problem.sampling_exact ? exact : half_or_exact)},
                {problem.grad_weights,
                 points * problem.levels * (problem.weights_exact ? exact : half_or_exact)},
                {problem.grad_reference, items * problem.levels * problem.reference_size * exact}},
               stream);
}

// Launches an operator on a stream of the current device.
inline LaunchStatus run_on_cuda(Operator name, const Problem& problem, cudaStream_t stream) {
  const bool backward =
      name == Operator::kMsDeformAttnBackward || name == Operator::kKeyAwareDeformAttnBackward;
  const bool keyed =
      name == Operator::kKeyAwareDeformAttn || name == Operator::kKeyAwareDeformAttnBackward;
  const bool nothing = problem.batch * problem.queries * problem.heads * problem.channels == 0;
  cudaError_t status = backward ? clear_sums(problem, stream) : cudaSuccess;
  if (status == cudaSuccess && backward && nothing) {
    status = clear_gradients_of_points(problem, stream);
  }
  if (status != cudaSuccess || nothing) {
    return {status};
  }
  return keyed ? launch_key_aware_deform_attn(problem, backward, stream)
               : launch_ms_deform_attn(problem, backward, stream);
}

}  // namespace lite_focus
