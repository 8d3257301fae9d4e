// From the sizes of a problem to a kernel and its launch.
#pragma once

#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/launch.h"

namespace lite_focus {

// More shared memory than a kernel gets by default has to be asked for.
constexpr size_t kDefaultSharedBytes = 48 * 1024;
constexpr int64_t kMaxGridSide = 65535;  // in y and z

inline size_t shared_bytes_of_device() {
  int device = 0;
  int bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    return kDefaultSharedBytes;
  }
  return static_cast<size_t>(bytes);
}

template <typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Arguments...), dim3 blocks, unsigned threads, size_t bytes,
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
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The blocks of a kernel that works on an item in every group.
struct Blocks {
  QueryGrid grid;
  dim3 count;
  unsigned threads;
  size_t bytes;
};

// Of up to `threads` threads, with `bytes` of shared memory for each point of a group.
template <typename Traits>
Blocks plan_blocks(const Problem& problem, unsigned threads, size_t bytes, size_t available) {
  Blocks blocks{};
  const int count = problem.levels * problem.points;
  // Fewer groups share the memory where it is short; in a fast path they are at least one row.
  const unsigned least = Traits::kLanes * (Traits::kFast ? kTileWidth : 1);
  while (threads > least && threads / Traits::kLanes * bytes_of_group(bytes, count) > available) {
    threads /= 2;
  }
  if constexpr (Traits::kFast) {
    blocks.grid = find_grid(problem, threads / Traits::kLanes / kTileWidth);
    if (!blocks.grid.pixels && threads > 128) {
      // Small blocks spread a few queries over the multiprocessors.
      threads = 128;
      blocks.grid = find_grid(problem, threads / Traits::kLanes / kTileWidth);
    }
    blocks.count = dim3(blocks.grid.tiles, static_cast<unsigned>(problem.heads),
                        static_cast<unsigned>(problem.batch));
  } else {
    const int64_t groups = threads / Traits::kLanes;
    const int64_t items = problem.batch * problem.queries * problem.heads;
    blocks.count = dim3(static_cast<unsigned>((items + groups - 1) / groups));
  }
  blocks.threads = threads;
  blocks.bytes = threads / Traits::kLanes * bytes_of_group(bytes, count);
  return blocks;
}

// The number of terms of a sum is less than two to this power.
inline int bits_of_terms(const Problem& problem) {
  int bits = 1;
  for (int64_t terms = problem.queries * problem.levels * problem.points; terms > 0; terms /= 2) {
    ++bits;
  }
  return bits;
}

template <typename Real>
cudaError_t finish_sums(const FixedSums& sums, const Problem& problem, int term_bits,
                        cudaStream_t stream) {
  const int64_t count = problem.batch * problem.tokens * problem.heads * problem.channels;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>((count + 255) / 256, 4096));
  return launch_kernel(finish_fixed_sums<Real>, dim3(blocks), 256, 0, stream, sums, count,
                       term_bits);
}

// The kernel twice, and sums that do not depend on the order of its blocks.
template <typename Traits, Scores kScores>
cudaError_t launch_fixed(const Problem& problem, const Blocks& blocks, cudaStream_t stream) {
  using Real = typename Traits::Real;
  const int term_bits = bits_of_terms(problem);
  cudaError_t status = cudaSuccess;
  for (const Terms terms : {Terms::kMeasured, Terms::kAddedFixed}) {
    if (status == cudaSuccess) {
      status =
          launch_kernel(deform_attn_backward_kernel<Traits, kScores>, blocks.count, blocks.threads,
                        blocks.bytes, stream, problem, blocks.grid, terms, term_bits);
    }
  }
  if (status == cudaSuccess) {
    status = finish_sums<Real>(value_sums(problem), problem, term_bits, stream);
  }
  if (status == cudaSuccess && problem.grad_key != nullptr) {
    status = finish_sums<Real>(key_sums(problem), problem, term_bits, stream);
  }
  return status;
}

// Whether a tile of queries has its lists of corners: `error` says what became of them.
template <typename Traits, Scores kScores>
bool launch_tiles(const Problem& problem, size_t available, cudaStream_t stream,
                  cudaError_t& error) {
  using Lists = CornerLists<Traits::kPoints>;
  const QueryGrid grid = find_grid(problem, kTileQueries / kTileWidth);
  const int count = problem.levels * problem.points;
  const size_t scratch = Traits::kBackwardThreads / Traits::kLanes *
                         bytes_of_group(Scratch<Traits, kScores>::kBytes, count);
  const size_t bytes = Kept<Traits, kScores>::stride(count) * kTileQueries +
                       std::max(scratch, Lists::kTileCorners * sizeof(unsigned));
  int64_t widest = 0;
  for (int l = 0; l < problem.levels; ++l) {
    widest = std::max<int64_t>(widest, problem.level[l].width);
  }
  const int64_t rows = kTileWidth * (widest + 1) * problem.heads * problem.channels;
  if (!grid.pixels || problem.tokens > Lists::kMaxTokens || rows > UINT32_MAX ||
      bytes > available) {
    return false;
  }
  error = launch_kernel(
      deform_attn_backward_tile_kernel<Traits, kScores>,
      dim3(grid.tiles, static_cast<unsigned>(problem.heads), static_cast<unsigned>(problem.batch)),
      Traits::kBackwardThreads, bytes, stream, problem, grid);
  return true;
}

template <typename Traits, Scores kScores>
LaunchStatus launch(const Problem& problem, bool backward, cudaStream_t stream) {
  const size_t available = shared_bytes_of_device();
  const bool fixed = backward && problem.fixed_value != nullptr;
  const bool summed = backward && problem.grad_value != nullptr;
  if constexpr (Traits::kFast) {
    cudaError_t error = cudaSuccess;
    if (summed && !fixed &&
        launch_tiles<typename Traits::Tiled, kScores>(problem, available, stream, error)) {
      return {error};
    }
  }
  const size_t bytes = backward ? Kept<Traits, kScores>::kBytes + Scratch<Traits, kScores>::kBytes
                                : kForwardBytes<Traits, kScores>;
  const Blocks blocks = plan_blocks<Traits>(
      problem, backward ? Traits::kBackwardThreads : Traits::kForwardThreads, bytes, available);
  if (blocks.bytes > available) {
    return {cudaSuccess, blocks.bytes, available};
  }
  if (fixed) {
    return {launch_fixed<Traits, kScores>(problem, blocks, stream)};
  }
  if (backward) {
    const Terms terms = summed ? Terms::kAdded : Terms::kIgnored;
    return {launch_kernel(deform_attn_backward_kernel<Traits, kScores>, blocks.count,
                          blocks.threads, blocks.bytes, stream, problem, blocks.grid, terms, 0)};
  }
  return {launch_kernel(deform_attn_kernel<Traits, kScores>, blocks.count, blocks.threads,
                        blocks.bytes, stream, problem, blocks.grid)};
}

// Whether the addresses of a tensor of `size` bytes per access are those of whole accesses.
inline bool is_aligned(const void* tensor, size_t size) {
  return reinterpret_cast<uintptr_t>(tensor) % size == 0;
}

// Whether rows of kVector channels, and pairs of coordinates, can be read in one access each.
template <typename T, int kVector>
bool allows_wide_access(const Problem& problem) {
  const int64_t strides = problem.token_stride | problem.head_stride | problem.batch_stride;
  const size_t row = kVector * sizeof(T);
  return strides % kVector == 0 && is_aligned(problem.value, row) && is_aligned(problem.key, row) &&
         is_aligned(problem.query, row) && is_aligned(problem.grad_output, row) &&
         is_aligned(problem.sampling, 2 * (problem.sampling_exact ? sizeof(float) : sizeof(T))) &&
         is_aligned(problem.reference, 2 * sizeof(float));
}

// Calls launch(Traits) with the traits of the fast path for as many channels; false: there is none.
template <typename T, int kPoints, int kVector, bool kExact, typename Launch>
bool with_channels(int channels, Launch launch) {
  switch (channels) {
    case 16:  // at least four threads for an item, or shared memory bounds the occupancy
      launch(Traits<T, 16, kPoints, (kVector < 4 ? kVector : 4), kExact>());
      return true;
    case 32:
      launch(Traits<T, 32, kPoints, kVector, kExact>());
      return true;
    case 64:
      launch(Traits<T, 64, kPoints, kVector, kExact>());
      return true;
  }
  return false;
}

// Calls launch(Traits) with the traits for the sizes; a thread reads kVector channels.
template <typename T, int kVector, typename Launch>
LaunchStatus with_sizes(const Problem& problem, Launch launch) {
  if constexpr (!std::is_same_v<T, double>) {
    const int points = problem.levels * problem.points;
    const bool offsets_fit = problem.tokens * problem.token_stride <= INT32_MAX &&
                             problem.queries <= INT32_MAX - kTileQueries;
    const bool grid_fits = problem.heads <= kMaxGridSide && problem.batch <= kMaxGridSide;
    if (offsets_fit && grid_fits && allows_wide_access<T, kVector>(problem)) {
      LaunchStatus status;
      const auto run = [&](auto traits) { status = launch(traits); };
      const bool fast = points == 16   ? with_channels<T, 16, kVector, true>(problem.channels, run)
                        : points < 16  ? with_channels<T, 16, kVector, false>(problem.channels, run)
                        : points <= 32 ? with_channels<T, 32, kVector, false>(problem.channels, run)
                                       : false;
      if (fast) {
        return status;
      }
    }
  }
  return launch(Traits<T, 0, 0, 1>());
}

template <int kVectorOfFloat, int kVectorOfHalf, typename Launch>
LaunchStatus with_traits(const Problem& problem, Launch launch) {
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
  return {cudaErrorInvalidValue};
}

}  // namespace lite_focus
