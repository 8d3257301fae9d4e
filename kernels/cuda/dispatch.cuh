// From the sizes of a problem to a kernel and its launch.
#pragma once

#include "cuda/launch.h"
#include "cuda/sampling.cuh"

namespace lite_focus {

template <typename Traits>
int64_t blocks_of(const Problem& problem) {
  const int64_t items = problem.batch * problem.queries * problem.heads;
  return (items + Traits::kGroups - 1) / Traits::kGroups;
}

// More shared memory than a kernel gets by default has to be asked for.
constexpr size_t kDefaultSharedBytes = 48 * 1024;

template <typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Arguments...), int64_t blocks, int threads, size_t bytes,
                          cudaStream_t stream, const Arguments&... arguments) {
  if (bytes > kDefaultSharedBytes) {
    const cudaError_t status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) {
      return status;
    }
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Calls launch(Traits) with the traits for the sizes; a thread reads kVector channels.
template <typename T, int kVector, typename Launch>
cudaError_t with_sizes(const Problem& problem, Launch launch) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kPoints = 16;
    const bool offsets_fit = problem.tokens * problem.token_stride <= INT32_MAX;
    const int64_t strides = problem.token_stride | problem.head_stride | problem.batch_stride;
    const auto address = reinterpret_cast<uintptr_t>(problem.value) |
                         reinterpret_cast<uintptr_t>(problem.key) |
                         reinterpret_cast<uintptr_t>(problem.query) |
                         reinterpret_cast<uintptr_t>(problem.grad_output);
    const bool aligned = strides % kVector == 0 && address % (kVector * sizeof(T)) == 0;
    if (problem.levels * problem.points == kPoints && offsets_fit && aligned) {
      switch (problem.channels) {
        case 16:  // at least four threads for an item, or shared memory bounds the occupancy
          return launch(Traits<T, 16, kPoints, (kVector < 4 ? kVector : 4)>());
        case 32:
          return launch(Traits<T, 32, kPoints, kVector>());
        case 64:
          return launch(Traits<T, 64, kPoints, kVector>());
      }
    }
  }
  return launch(Traits<T, 0, 0, 1>());
}

template <int kVectorOfFloat, int kVectorOfHalf, typename Launch>
cudaError_t with_traits(const Problem& problem, Launch launch) {
  switch (problem.kind) {
    case ScalarKind::kFloat:
      return with_sizes<float, kVectorOfFloat>(problem, launch);
    case ScalarKind::kDouble:
      return with_sizes<double, 1>(problem, launch);
    case ScalarKind::kBFloat16:
      return with_sizes<__nv_bfloat16, kVectorOfHalf>(problem, launch);
    case ScalarKind::kHalf:
      return with_sizes<__half, kVectorOfHalf>(problem, launch);
  }
  return cudaErrorInvalidValue;
}

}  // namespace lite_focus
