// The CUDA implementation of the operators; their schemas are in cpu/register.cpp.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/launch.h"
#include "operators.h"

namespace lite_focus {

// Read from the file before it is loaded: ops/library_file.py.
#if defined(LITE_FOCUS_STAMP)
__attribute__((used)) static const char stamp[] = LITE_FOCUS_STAMP;
#endif

namespace {

struct CudaBackend {
  static constexpr bool kAddsInAnyOrder = true;
  static constexpr bool kCanIgnoreMaps = true;

  static void run(Operator name, const Problem& problem, const Tensor& value) {
    const int32_t device = value.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    const LaunchStatus status = run_on_cuda(name, problem, static_cast<cudaStream_t>(stream));
    if (status.error != cudaSuccess) {
      cudaGetLastError();  // PyTorch's next check shall not report it again.
    }
    STD_TORCH_CHECK(status.ok(), "deformable attention: ", describe(status, problem));
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
