// The CUDA implementation of the operators; their schemas are in cpu/register.cpp.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/launch.h"
#include "operators.h"

namespace lite_focus {

cudaError_t run_on_cuda(Operator name, const Problem& problem, cudaStream_t stream) {
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

namespace {

struct CudaBackend {
  static void run(Operator name, const Problem& problem, const Tensor& value) {
    const int32_t device = value.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    const cudaError_t status = run_on_cuda(name, problem, static_cast<cudaStream_t>(stream));
    STD_TORCH_CHECK(status == cudaSuccess, "deformable attention: ", cudaGetErrorString(status));
  }
};

}  // namespace
}  // namespace lite_focus

STABLE_TORCH_LIBRARY_IMPL(lite_focus_detr, CUDA, library) {
  using lite_focus::CudaBackend;
  library.impl("ms_deform_attn", TORCH_BOX(&lite_focus::ms_deform_attn_op<CudaBackend>));
  library.impl("ms_deform_attn_backward",
               TORCH_BOX(&lite_focus::ms_deform_attn_backward_op<CudaBackend>));
  library.impl("key_aware_deform_attn",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_op<CudaBackend>));
  library.impl("key_aware_deform_attn_backward",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_backward_op<CudaBackend>));
}
