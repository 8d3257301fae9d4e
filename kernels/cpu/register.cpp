// The schemas of the operators and their CPU implementation.
#include "cpu/schedule.h"
#include "operators.h"

namespace lite_focus {

// Read from the file before it is loaded: ops/library_file.py.
#if defined(LITE_FOCUS_STAMP)
__attribute__((used)) static const char stamp[] = LITE_FOCUS_STAMP;
#endif

namespace {

struct CpuBackend {
  static constexpr bool kAddsInAnyOrder = false;
  static constexpr bool kCanIgnoreMaps = false;

  static void run(Operator name, const Problem& problem, const Tensor&) {
    run_on_cpu(name, problem);
  }
};

}  // namespace
}  // namespace lite_focus

STABLE_TORCH_LIBRARY(lite_focus_detr, library) {
  library.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor? reference_points, "
      "Tensor sampling_points, Tensor weights) -> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
      "Tensor? reference_points, Tensor sampling_points, Tensor weights, bool needs_reference, "
      "bool needs_value, bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "key_aware_deform_attn(Tensor query, Tensor? key, Tensor value, SymInt[] spatial_shapes, "
      "Tensor? reference_points, Tensor sampling_points, float scale, bool mask_outside) "
      "-> Tensor");
  library.def(
      "key_aware_deform_attn_backward(Tensor grad_output, Tensor query, Tensor? key, "
      "Tensor value, SymInt[] spatial_shapes, Tensor? reference_points, Tensor sampling_points, "
      "float scale, bool mask_outside, bool needs_reference, bool needs_value, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lite_focus_detr, CPU, library) {
  using lite_focus::CpuBackend;
  library.impl("ms_deform_attn", TORCH_BOX(&lite_focus::ms_deform_attn_op<CpuBackend>));
  library.impl("ms_deform_attn_backward",
               TORCH_BOX(&lite_focus::ms_deform_attn_backward_op<CpuBackend>));
  library.impl("key_aware_deform_attn",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_op<CpuBackend>));
  library.impl("key_aware_deform_attn_backward",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_backward_op<CpuBackend>));
}
