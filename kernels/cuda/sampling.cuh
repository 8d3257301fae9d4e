// A group of threads of one warp works on an item (query and head). Its threads share the points
// when positions and weights are computed, and the channels when maps are read.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "bilinear.h"
#include "problem.h"

namespace lite_focus {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kThreads = 128;
// Blocks per multiprocessor that the registers of a backward kernel must allow.
constexpr int kBackwardBlocks = 6;

template <typename Real_>
struct Scalars {
  using Real = Real_;
  using Int = int;
  static __device__ __forceinline__ Real to_real(int x) { return static_cast<Real>(x); }
  static __device__ __forceinline__ int floor(Real x) { return static_cast<int>(::floor(x)); }
};

// T is how value is stored; a thread reads kVector channels at once. A fast path knows the
// channels and the points (else 0) and has offsets of 32 bits.
template <typename T_, int kChannels_, int kPoints_, int kVector_>
struct Traits {
  using T = T_;
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Index = std::conditional_t<kPoints_ == 0, int64_t, int32_t>;
  static constexpr int kChannels = kChannels_;
  static constexpr int kPoints = kPoints_;
  static constexpr int kVector = kVector_;
  static constexpr int kLanes = kChannels_ == 0 ? 32 : kChannels_ / kVector_;
  static constexpr int kGroups = kThreads / kLanes;
};

// What a group knows of a point; in shared memory.
template <typename Traits>
struct Point {
  typename Traits::Real weight[4];
  typename Traits::Index offset[4];
};

__device__ __forceinline__ float to_real(float x) { return x; }
__device__ __forceinline__ double to_real(double x) { return x; }
__device__ __forceinline__ float to_real(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_real(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T, typename Real>
__device__ __forceinline__ T from_real(Real x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// kCount values in one access of up to 128 bits.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packet {
  T item[kCount];
};

template <int kCount, typename T, typename Real>
__device__ __forceinline__ void load(const T* source, Real (&target)[kCount]) {
  const auto packet = *reinterpret_cast<const Packet<T, kCount>*>(source);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    target[i] = to_real(packet.item[i]);
  }
}

template <int kCount, typename T, typename Real>
__device__ __forceinline__ void store(T* target, const Real (&source)[kCount]) {
  Packet<T, kCount> packet;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    packet.item[i] = from_real<T>(source[i]);
  }
  *reinterpret_cast<Packet<T, kCount>*>(target) = packet;
}

// target += factor * source, atomically per element and without a result.
template <int kCount, typename Real>
__device__ __forceinline__ void add_atomically(Real* target, Real factor,
                                               const Real (&source)[kCount]) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kByFour = std::is_same_v<Real, float> && kCount % 4 == 0;
#else
  constexpr bool kByFour = false;
#endif
  if constexpr (kByFour) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                   :
                   : "l"(target + i), "f"(factor * source[i]), "f"(factor * source[i + 1]),
                     "f"(factor * source[i + 2]), "f"(factor * source[i + 3])
                   : "memory");
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      atomicAdd(target + i, factor * source[i]);
    }
  }
}

template <int kLanes, typename Real>
__device__ __forceinline__ Real group_sum(Real x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kWarp, x, distance, kLanes);
  }
  return x;
}

template <int kLanes, typename Real>
__device__ __forceinline__ Real group_max(Real x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x = max(x, __shfl_xor_sync(kWarp, x, distance, kLanes));
  }
  return x;
}

// Sums of kCount values over the lanes of a group, kCount a power of two. Where there are enough
// lanes each exchange halves the values that a lane is responsible for, so that a sum costs less
// than two shuffles. `target[first(i)]` receives what a lane ends up with.
template <int kCount, int kLanes, typename Real>
__device__ __forceinline__ void group_sums(Real (&values)[kCount], Real* target, int lane) {
  int first = 0;
  int count = kCount;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const bool upper = lane & distance;
    if (count > 1) {
      count /= 2;
      first += upper ? count : 0;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        if (i < count) {
          const Real sent = upper ? values[i] : values[i + count];
          const Real kept = upper ? values[i + count] : values[i];
          values[i] = kept + __shfl_xor_sync(kWarp, sent, distance, kLanes);
        }
      }
    } else {
      values[0] += __shfl_xor_sync(kWarp, values[0], distance, kLanes);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) {
      target[first + i] = values[i];
    }
  }
}

// The item of a group, and its points.
template <typename Traits>
struct Item {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  using Lanes = Scalars<Real>;
  static constexpr int kLanes = Traits::kLanes;

  const Problem& problem;
  int lane;
  bool exists;  // groups beyond the last item repeat it and store nothing
  int64_t index;
  int64_t image;
  int head;
  int64_t row;  // image and query

  __device__ __forceinline__ Item(const Problem& given)
      : problem(given), lane(threadIdx.x % kLanes) {
    const int64_t items = problem.batch * problem.queries * problem.heads;
    const int64_t own = int64_t(blockIdx.x) * Traits::kGroups + threadIdx.x / kLanes;
    exists = own < items;
    index = exists ? own : items - 1;
    row = index / problem.heads;
    head = static_cast<int>(index - row * problem.heads);
    image = row / problem.queries;
  }

  __device__ __forceinline__ int count() const {
    return Traits::kPoints ? Traits::kPoints : problem.levels * problem.points;
  }
  __device__ __forceinline__ int channels() const {
    return Traits::kChannels ? Traits::kChannels : problem.channels;
  }
  __device__ __forceinline__ int64_t map_offset() const {
    return image * problem.batch_stride + head * problem.head_stride;
  }
  __device__ __forceinline__ int64_t channel_offset() const { return index * channels(); }

  // Calls function(channel) for the channels of this lane, kVector at a time.
  template <typename Function>
  __device__ __forceinline__ void for_channels(Function function) const {
    if constexpr (Traits::kChannels != 0) {
      function(lane * Traits::kVector);
    } else {
      for (int d = lane; d < channels(); d += kLanes) {
        function(d);
      }
    }
  }

  // Calls function(point) for the points of this lane.
  template <typename Function>
  __device__ __forceinline__ void for_points(Function function) const {
#pragma unroll
    for (int p = lane; p < count(); p += kLanes) {
      function(p);
    }
  }

  __device__ __forceinline__ Real read(const void* tensor, bool exact, int64_t i) const {
    return exact ? static_cast<const Real*>(tensor)[i] : to_real(static_cast<const T*>(tensor)[i]);
  }
  __device__ __forceinline__ void write(void* tensor, bool exact, int64_t i, Real x) const {
    if (exact) {
      static_cast<Real*>(tensor)[i] = x;
    } else {
      static_cast<T*>(tensor)[i] = from_real<T>(x);
    }
  }

  __device__ __forceinline__ int64_t sampling_index(int point) const {
    const int stored = problem.point_levels * problem.points;
    return (index * stored + point % stored) * 2;
  }

  // A position in pixels is origin + scale * (location or offset).
  struct Affine {
    Real origin;
    Real scale;
  };
  __device__ __forceinline__ Affine affine(int point, int axis) const {
    const int level = point / problem.points;
    const Level& shape = problem.level[level];
    const Real size = static_cast<Real>(axis == 0 ? shape.width : shape.height);
    const int columns = problem.reference_size;
    if (columns == 0) {
      return {Real(-0.5), size};
    }
    const Real* reference =
        static_cast<const Real*>(problem.reference) + (row * problem.levels + level) * columns;
    const Real unit = Real(0.5) / static_cast<Real>(problem.points);
    const Real scale = columns == 4 ? reference[2 + axis] * size * unit : Real(1);
    return {reference[axis] * size - Real(0.5), scale};
  }

  struct Axes {
    Axis<Lanes> x;
    Axis<Lanes> y;
  };
  __device__ __forceinline__ Axes axes(int point) const {
    const int64_t i = sampling_index(point);
    const Level& shape = problem.level[point / problem.points];
    const Affine x = affine(point, 0);
    const Affine y = affine(point, 1);
    const bool exact = problem.sampling_exact;
    return {interpolate<Lanes>(x.origin + x.scale * read(problem.sampling, exact, i), shape.width),
            interpolate<Lanes>(y.origin + y.scale * read(problem.sampling, exact, i + 1),
                               shape.height)};
  }

  __device__ __forceinline__ Point<Traits> locate(int point, const Axes& axes) const {
    using Index = typename Traits::Index;
    const Level& shape = problem.level[point / problem.points];
    Point<Traits> result;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      result.weight[c] = axes.y.weight[c / 2] * axes.x.weight[c % 2];
      const int token = shape.start + axes.y.index[c / 2] * shape.width + axes.x.index[c % 2];
      result.offset[c] = static_cast<Index>(token) * static_cast<Index>(problem.token_stride);
    }
    return result;
  }

  __device__ __forceinline__ Real weight_of(int point) const {
    const int64_t first = image * problem.weights_image_stride +
                          (row - image * problem.queries) * problem.weights_query_stride +
                          head * problem.weights_head_stride;
    return read(problem.weights, problem.weights_exact, first + point);
  }

  // In place, over the points of the group; a lane touches its own points only.
  __device__ __forceinline__ void softmax(Real* logits) const {
    Real highest = -INFINITY;
    for_points([&](int p) { highest = max(highest, logits[p]); });
    highest = group_max<kLanes>(highest);
    Real total = 0;
    for_points([&](int p) {
      logits[p] = exp(logits[p] - highest);
      total += logits[p];
    });
    const Real normaliser = 1 / group_sum<kLanes>(total);
    for_points([&](int p) { logits[p] *= normaliser; });
  }

  // Gradients of the position of a point, from those by its pixel coordinates.
  __device__ __forceinline__ void store_position_gradient(int point, Real x, Real y) const {
    const bool broadcast = problem.point_levels != problem.levels;
    const int64_t i = sampling_index(point);
    const Real grad_x = x * affine(point, 0).scale;
    const Real grad_y = y * affine(point, 1).scale;
    if (exists && !broadcast) {
      write(problem.grad_sampling, problem.sampling_exact, i, grad_x);
      write(problem.grad_sampling, problem.sampling_exact, i + 1, grad_y);
    }
  }

  // With the pixel gradients of all points in shared memory: what is summed over points.
  __device__ __forceinline__ void store_summed_gradients(const Real* x, const Real* y) const {
    if (!exists) {
      return;
    }
    if (problem.point_levels != problem.levels) {
      for (int p = lane; p < problem.points; p += kLanes) {
        Real grad_x = 0;
        Real grad_y = 0;
        for (int i = p; i < count(); i += problem.points) {
          grad_x += x[i] * affine(i, 0).scale;
          grad_y += y[i] * affine(i, 1).scale;
        }
        const int64_t i = sampling_index(p);
        write(problem.grad_sampling, problem.sampling_exact, i, grad_x);
        write(problem.grad_sampling, problem.sampling_exact, i + 1, grad_y);
      }
    }
    if (problem.grad_reference != nullptr) {
      for (int l = lane; l < problem.levels; l += kLanes) {
        store_reference_gradient(l, 0, x, problem.level[l].width);
        store_reference_gradient(l, 1, y, problem.level[l].height);
      }
    }
  }

  __device__ __forceinline__ void store_reference_gradient(int level, int axis,
                                                           const Real* gradient, int pixels) const {
    const int size = problem.reference_size;
    Real position = 0;
    Real extent = 0;
    for (int p = level * problem.points; p < (level + 1) * problem.points; ++p) {
      const int64_t i = sampling_index(p) + axis;
      position += gradient[p];
      extent += size == 4 ? gradient[p] * read(problem.sampling, problem.sampling_exact, i) : 0;
    }
    Real* target =
        static_cast<Real*>(problem.grad_reference) + (index * problem.levels + level) * size;
    target[axis] = position * static_cast<Real>(pixels);
    if (size == 4) {
      target[2 + axis] =
          extent * static_cast<Real>(pixels) * Real(0.5) / static_cast<Real>(problem.points);
    }
  }
};

// Arrays with one element per point and group, in dynamic shared memory.
template <typename Element, typename Traits>
__device__ __forceinline__ Element* shared_array(char*& memory, int points) {
  Element* all = reinterpret_cast<Element*>(memory);
  memory += sizeof(Element) * points * Traits::kGroups;
  return all + (threadIdx.x / Traits::kLanes) * points;
}

template <typename Traits>
inline dim3 grid_of(const Problem& problem) {
  const int64_t items = problem.batch * problem.queries * problem.heads;
  return dim3(static_cast<unsigned>((items + Traits::kGroups - 1) / Traits::kGroups));
}

// More shared memory than a kernel gets by default has to be asked for.
constexpr size_t kDefaultSharedBytes = 48 * 1024;

inline cudaError_t launch_kernel(void (*kernel)(Problem), const Problem& problem, dim3 grid,
                                 size_t bytes, cudaStream_t stream) {
  if (bytes > kDefaultSharedBytes) {
    const cudaError_t status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) {
      return status;
    }
  }
  kernel<<<grid, kThreads, bytes, stream>>>(problem);
  return cudaGetLastError();
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
