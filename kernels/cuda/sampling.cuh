// A group of threads of one warp works on an item (query and head). Its threads share the points
// when positions and weights are computed, and the channels when maps are read.
#pragma once

#include <cstdint>

#include "bilinear.h"
#include "cuda/vectors.cuh"
#include "problem.h"

namespace lite_focus {

// T is how value is stored; a thread reads kVector channels at once. A fast path knows the
// channels and the points (else 0) and has offsets of 32 bits. kTiled: a block works on the queries
// of a tile, see tile.cuh.
template <typename T_, int kChannels_, int kPoints_, int kVector_, bool kTiled_ = false>
struct Traits {
  using T = T_;
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Index = std::conditional_t<kPoints_ == 0, int64_t, int32_t>;
  using Tiled = Traits<T_, kChannels_, kPoints_, kVector_, true>;
  static constexpr int kChannels = kChannels_;
  static constexpr int kPoints = kPoints_;
  static constexpr int kVector = kVector_;
  static constexpr bool kTiled = kTiled_;
  static constexpr int kLanes = kChannels_ == 0 ? 32 : kChannels_ / kVector_;
  static constexpr int kThreads = kTiled_ ? 256 : 128;
  static constexpr int kGroups = kThreads / kLanes;
  // Blocks per multiprocessor that the registers of a backward kernel must allow.
  static constexpr int kBackwardBlocks = 768 / kThreads;
};

// In place of a corner outside of its map, which is not read: what lies there need not be finite.
constexpr int kNoCorner = -1;

// What a group knows of a point; in shared memory. A tile has the tokens of the corners in place
// of their offsets, because it compares them.
template <typename Traits>
struct Point {
  typename Traits::Real weight[4];
  typename Traits::Index corner[4];
};

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
  int64_t image;
  int head;
  int64_t row;  // image and query
  int64_t index;

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

  __device__ __forceinline__ Item(const Problem& given, int64_t image_, int64_t query, int head_,
                                  bool exists_)
      : problem(given), lane(threadIdx.x % kLanes), exists(exists_), image(image_), head(head_) {
    row = image * problem.queries + query;
    index = row * problem.heads + head;
    // What depends on the lane is computed again for the next item, or it would not fit into
    // registers.
    asm volatile("" : "+r"(lane));
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
    const Index stride = Traits::kTiled ? 1 : static_cast<Index>(problem.token_stride);
    Point<Traits> result;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      result.weight[c] = axes.y.weight[c / 2] * axes.x.weight[c % 2];
      const int token = shape.start + axes.y.index[c / 2] * shape.width + axes.x.index[c % 2];
      // On the centre of a pixel the others have no weight, but a slope. A position that is not a
      // number has no slope, and its weight is not zero.
      const bool outside =
          (axes.y.slope[c / 2] == 0 || axes.x.slope[c % 2] == 0) && result.weight[c] == 0;
      result.corner[c] = outside ? Index(kNoCorner) : static_cast<Index>(token) * stride;
    }
    return result;
  }

  // Of a corner from the start of the map.
  __device__ __forceinline__ typename Traits::Index offset_of(typename Traits::Index corner) const {
    return Traits::kTiled ? corner * static_cast<typename Traits::Index>(problem.token_stride)
                          : corner;
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

// What a group keeps of its points while it computes the gradients of an item.
template <typename Traits, int kDots>
struct Scratch {
  using Real = typename Traits::Real;
  static constexpr size_t kBytes = (kDots + 2) * sizeof(Real);  // of a point

  Packet<Real, kDots>* dots;  // products of gradients with the corners
  Real* grad_x;
  Real* grad_y;

  __device__ __forceinline__ Scratch(char*& memory, int points)
      : dots(shared_array<Packet<Real, kDots>, Traits>(memory, points)),
        grad_x(shared_array<Real, Traits>(memory, points)),
        grad_y(shared_array<Real, Traits>(memory, points)) {}
};

}  // namespace lite_focus
