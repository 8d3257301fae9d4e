// Key-aware deformable attention: the weights of the points are scores of their keys.
#include "cuda/dispatch.cuh"

namespace lite_focus {

// Four channels per thread also in half precision: the samples of a shared key at 16 points, 16
// times as many registers, would not fit otherwise. The other kernels do as this one.
LaunchStatus launch_key_aware_deform_attn(const Problem& problem, bool backward,
                                          cudaStream_t stream) {
  return with_traits<4, 4>(problem, [&](auto traits) {
    using Own = decltype(traits);
    return problem.key == nullptr ? launch<Own, Scores::kValue>(problem, backward, stream)
                                  : launch<Own, Scores::kKey>(problem, backward, stream);
  });
}

}  // namespace lite_focus
