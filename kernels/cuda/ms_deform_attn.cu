// Multi-scale deformable attention: the weights of the points are given.
#include "cuda/dispatch.cuh"

namespace lite_focus {

LaunchStatus launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream) {
  return with_traits<4, 8>(problem, [&](auto traits) {
    return launch<decltype(traits), Scores::kGiven>(problem, backward, stream);
  });
}

}  // namespace lite_focus
