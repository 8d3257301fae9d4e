// A group of threads of one warp works on an item (query and head). Its threads share the points
// when positions and weights are computed, and the channels when maps are read.
#pragma once

#include <cstdint>

#include "bilinear.h"
#include "cuda/vectors.cuh"
#include "problem.h"

namespace lite_focus {

// T is how value is stored; a thread reads kVector channels at once. A fast path knows the
// channels and how many points there may be (else 0), if kExact how many there are, and has offsets
// of 32 bits. kTiled: a block works on the queries of a tile, see tile.cuh.
template <typename T_, int kChannels_, int kPoints_, int kVector_, bool kExact_ = kPoints_ != 0,
          bool kTiled_ = false>
struct Traits {
  using T = T_;
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Index = std::conditional_t<kPoints_ == 0, int64_t, int32_t>;
  using Tiled = Traits<T_, kChannels_, kPoints_, kVector_, kExact_, true>;
  static constexpr int kChannels = kChannels_;
  static constexpr int kPoints = kPoints_;
  static constexpr int kVector = kVector_;
  static constexpr bool kFast = kPoints_ != 0;
  static constexpr bool kExact = kExact_;
  static constexpr bool kTiled = kTiled_;
  static constexpr int kLanes = kFast ? kChannels_ / kVector_ : 32;
  // Threads of a block, at most.
  static constexpr int kForwardThreads = kFast ? (kLanes < 8 ? 64 * kLanes : 512) : 128;
  static constexpr int kBackwardThreads = kTiled_ ? 256 : 128;
};

// In place of a corner outside of its map, which is not read: what lies there need not be finite.
constexpr int kNoCorner = -1;

// What a group knows of a point; in shared memory. A tile has the tokens of the corners in place
// of their offsets from the start of the map, because it compares them.
template <typename Traits>
struct Corner {
  typename Traits::Real weight;
  typename Traits::Index offset;
};
template <typename Traits>
struct alignas(16) Point {
  Corner<Traits> corner[4];
};

// Sums over the lanes of a group are written for so many points at once.
constexpr int kSummedPoints = 4;

// Shared memory for `bytes` of each point of a group. The groups of a warp read the same element of
// theirs at once: an odd number of 16 bytes puts these into different banks.
LITE_FOCUS_INLINE constexpr size_t bytes_of_group(size_t bytes, int points) {
  const int written = (points + kSummedPoints - 1) / kSummedPoints * kSummedPoints;
  return ((bytes * written + 15) / 16 | 1) * 16;
}

// Arrays with one element per point, in the memory of a group.
template <typename Element>
__device__ __forceinline__ Element* take_array(char*& memory, int points) {
  Element* array = reinterpret_cast<Element*>(memory);
  memory += sizeof(Element) * points;
  return array;
}

// A number for each point of a lane: in registers where it is known how many there may be.
template <typename Traits>
struct OwnNumbers {
  using Real = typename Traits::Real;
  Real number[Traits::kFast ? Traits::kPoints / Traits::kLanes : 1];
  Real* memory;  // of the group, for all points

  __device__ __forceinline__ explicit OwnNumbers(Real* memory_) : memory(memory_) {}
  // `point` is the `i`-th one of the lane.
  __device__ __forceinline__ Real& operator()(int point, int i) {
    if constexpr (Traits::kFast) {
      return number[i];
    } else {
      return memory[point];
    }
  }
};

// The item of a group, and its points.
template <typename Traits>
struct Item {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  using Lanes = Scalars<Real>;
  using Pair = Packet<Real, 2>;
  static constexpr int kLanes = Traits::kLanes;

  const Problem& problem;
  int lane;
  bool exists;  // groups without an item repeat another one and store nothing
  int64_t image;
  int head;
  int64_t row;  // image and query
  int64_t index;
  // The first x and y of the item in the points and in the references.
  int64_t sampling_start;
  int64_t reference_start;

  __device__ __forceinline__ Item(const Problem& given, int64_t image_, int64_t query, int head_,
                                  bool exists_)
      : problem(given), lane(threadIdx.x % kLanes), exists(exists_), image(image_), head(head_) {
    row = image * problem.queries + query;
    index = row * problem.heads + head;
    sampling_start = index * (problem.point_levels * problem.points);
    reference_start = row * (problem.levels * (problem.reference_size / 2));
    if constexpr (Traits::kTiled) {
      // What depends on the lane is computed again for the next item, or it would not fit into
      // registers.
      make_opaque(lane);
    }
  }

  __device__ __forceinline__ int count() const {
    return Traits::kExact ? Traits::kPoints : problem.levels * problem.points;
  }
  __device__ __forceinline__ int channels() const {
    return Traits::kFast ? Traits::kChannels : problem.channels;
  }
  __device__ __forceinline__ int64_t map_offset() const {
    return image * problem.batch_stride + head * problem.head_stride;
  }
  __device__ __forceinline__ int64_t channel_offset() const { return index * channels(); }

  // Calls function(channel) for the channels of this lane, kVector at a time.
  template <typename Function>
  __device__ __forceinline__ void for_channels(Function function) const {
    if constexpr (Traits::kFast) {
      function(lane * Traits::kVector);
    } else {
      for (int d = lane; d < channels(); d += kLanes) {
        function(d);
      }
    }
  }

  // Calls function(point, i) for the points of this lane; a point is its i-th one.
  template <typename Function>
  __device__ __forceinline__ void for_points(Function function) const {
    if constexpr (Traits::kFast) {
#pragma unroll
      for (int i = 0; i < Traits::kPoints / kLanes; ++i) {
        if (Traits::kExact || lane + i * kLanes < count()) {
          function(lane + i * kLanes, i);
        }
      }
    } else {
      for (int p = lane; p < count(); p += kLanes) {
        function(p, 0);
      }
    }
  }

  __device__ __forceinline__ Real read(const void* tensor, bool exact, int64_t i) const {
    if (std::is_same_v<T, Real> || exact) {
      return static_cast<const Real*>(tensor)[i];
    }
    return to_real(static_cast<const T*>(tensor)[i]);
  }
  __device__ __forceinline__ void write(void* tensor, bool exact, int64_t i, Real x) const {
    if (std::is_same_v<T, Real> || exact) {
      static_cast<Real*>(tensor)[i] = x;
    } else {
      static_cast<T*>(tensor)[i] = from_real<T>(x);
    }
  }

  // The i-th two numbers; in one access where all tensors are known to be aligned.
  __device__ __forceinline__ Pair read_pair(const void* tensor, bool exact, int64_t i) const {
    Pair pair;
    if constexpr (!Traits::kFast) {
      pair = {read(tensor, exact, 2 * i), read(tensor, exact, 2 * i + 1)};
    } else if (std::is_same_v<T, Real> || exact) {
      pair = static_cast<const Pair*>(tensor)[i];
    } else {
      load(static_cast<const T*>(tensor) + 2 * i, pair.item);
    }
    return pair;
  }
  __device__ __forceinline__ void write_pair(void* tensor, bool exact, int64_t i,
                                             const Pair& pair) const {
    if constexpr (!Traits::kFast) {
      write(tensor, exact, 2 * i, pair.item[0]);
      write(tensor, exact, 2 * i + 1, pair.item[1]);
    } else if (std::is_same_v<T, Real> || exact) {
      static_cast<Pair*>(tensor)[i] = pair;
    } else {
      store(static_cast<T*>(tensor) + 2 * i, pair.item);
    }
  }

  // An exact number of points is a power of two, hence that of each level as well. The other one is
  // so small that a rounded quotient is right.
  __device__ __forceinline__ int level_of(int point) const {
    if constexpr (Traits::kExact) {
      return point >> (__ffs(problem.points) - 1);
    } else if constexpr (Traits::kFast) {
      return static_cast<int>((static_cast<float>(point) + 0.5f) *
                              reciprocal(static_cast<float>(problem.points)));
    } else {
      return point / problem.points;
    }
  }
  // Of the x and y of a point.
  __device__ __forceinline__ int64_t sampling_pair(int point) const {
    const int stored = problem.point_levels * problem.points;
    if constexpr (Traits::kExact) {
      return sampling_start + (point & (stored - 1));
    }
    return sampling_start + (point < stored ? point : point - level_of(point) * problem.points);
  }

  // A position in pixels is origin + scale * (location or offset).
  struct Affine {
    Pair origin;
    Pair scale;
  };
  __device__ __forceinline__ Affine affine(int level) const {
    const Level& shape = problem.level[level];
    const Pair size = {static_cast<Real>(shape.width), static_cast<Real>(shape.height)};
    const int columns = problem.reference_size;
    if (columns == 0) {
      return {{Real(-0.5), Real(-0.5)}, size};
    }
    const int64_t pair = reference_start + level * (columns / 2);
    const Pair centre = read_pair(problem.reference, true, pair);
    Affine result = {
        {centre.item[0] * size.item[0] - Real(0.5), centre.item[1] * size.item[1] - Real(0.5)},
        {Real(1), Real(1)}};
    if (columns == 4) {
      const Pair box = read_pair(problem.reference, true, pair + 1);
      const Real unit = static_cast<Real>(problem.box_unit);
      result.scale = {box.item[0] * size.item[0] * unit, box.item[1] * size.item[1] * unit};
    }
    return result;
  }

  struct Axes {
    Axis<Lanes> x;
    Axis<Lanes> y;
  };
  __device__ __forceinline__ Axes axes(int point) const {
    const int level = level_of(point);
    const Level& shape = problem.level[level];
    const Affine map = affine(level);
    const Pair given = read_pair(problem.sampling, problem.sampling_exact, sampling_pair(point));
    return {
        interpolate<Lanes>(map.origin.item[0] + map.scale.item[0] * given.item[0], shape.width),
        interpolate<Lanes>(map.origin.item[1] + map.scale.item[1] * given.item[1], shape.height)};
  }

  // The corners of a point, their weights times `factor`.
  __device__ __forceinline__ Point<Traits> locate(int point, const Axes& axes, Real factor) const {
    using Index = typename Traits::Index;
    const Level& shape = problem.level[level_of(point)];
    const Index stride = Traits::kTiled ? 1 : static_cast<Index>(problem.token_stride);
    Point<Traits> result;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Real weight = axes.y.weight[c / 2] * axes.x.weight[c % 2] * factor;
      const int token = shape.start + axes.y.index[c / 2] * shape.width + axes.x.index[c % 2];
      // On the centre of a pixel the others have no weight, but a slope. A position or a factor
      // that is not a number makes the weight no number, which has to show.
      const bool outside = (axes.y.slope[c / 2] == 0 || axes.x.slope[c % 2] == 0) && weight == 0;
      result.corner[c] = {weight, outside ? Index(kNoCorner) : static_cast<Index>(token) * stride};
    }
    return result;
  }

  // Of a corner from the start of the map.
  __device__ __forceinline__ typename Traits::Index offset_of(const Corner<Traits>& corner) const {
    return Traits::kTiled
               ? corner.offset * static_cast<typename Traits::Index>(problem.token_stride)
               : corner.offset;
  }

  __device__ __forceinline__ Real weight_of(int point) const {
    const int64_t first = image * problem.weights_image_stride +
                          (row - image * problem.queries) * problem.weights_query_stride +
                          head * problem.weights_head_stride;
    return read(problem.weights, problem.weights_exact, first + point);
  }

  // In place, over the points of the group.
  __device__ __forceinline__ void softmax(OwnNumbers<Traits>& logits) const {
    Real highest = -INFINITY;
    for_points([&](int p, int i) { highest = max(highest, logits(p, i)); });
    highest = group_max<kLanes>(highest);
    Real total = 0;
    for_points([&](int p, int i) {
      logits(p, i) = exp(logits(p, i) - highest);
      total += logits(p, i);
    });
    const Real normaliser = reciprocal(group_sum<kLanes>(total));
    for_points([&](int p, int i) { logits(p, i) *= normaliser; });
  }

  // Gradients of the position of a point, from those by its pixel coordinates.
  __device__ __forceinline__ void store_position_gradient(int point, Real x, Real y) const {
    const Pair scale = affine(level_of(point)).scale;
    if (exists && problem.point_levels == problem.levels) {
      write_pair(problem.grad_sampling, problem.sampling_exact, sampling_pair(point),
                 {x * scale.item[0], y * scale.item[1]});
    }
  }

  // With the pixel gradients of all points in shared memory: what is summed over points.
  __device__ __forceinline__ void store_summed_gradients(const Pair* gradients) const {
    if (!exists) {
      return;
    }
    if (problem.point_levels != problem.levels) {
      for (int p = lane; p < problem.points; p += kLanes) {
        Pair sum = {0, 0};
        for (int l = 0; l < problem.levels; ++l) {
          const Pair scale = affine(l).scale;
          const Pair gradient = gradients[l * problem.points + p];
          sum.item[0] += gradient.item[0] * scale.item[0];
          sum.item[1] += gradient.item[1] * scale.item[1];
        }
        write_pair(problem.grad_sampling, problem.sampling_exact, sampling_pair(p), sum);
      }
    }
    if (problem.grad_reference != nullptr) {
      for (int l = lane; l < problem.levels; l += kLanes) {
        store_reference_gradient(l, gradients);
      }
    }
  }

  __device__ __forceinline__ void store_reference_gradient(int level, const Pair* gradients) const {
    const int size = problem.reference_size;
    const Level& shape = problem.level[level];
    const Pair pixels = {static_cast<Real>(shape.width), static_cast<Real>(shape.height)};
    Pair position = {0, 0};
    Pair extent = {0, 0};
#pragma unroll 1
    for (int p = level * problem.points; p < (level + 1) * problem.points; ++p) {
      const Pair gradient = gradients[p];
      const Pair offset =
          size == 4 ? read_pair(problem.sampling, problem.sampling_exact, sampling_pair(p))
                    : Pair{};
#pragma unroll
      for (int axis = 0; axis < 2; ++axis) {
        position.item[axis] += gradient.item[axis];
        extent.item[axis] += gradient.item[axis] * offset.item[axis];
      }
    }
    Real* target =
        static_cast<Real*>(problem.grad_reference) + (index * problem.levels + level) * size;
#pragma unroll
    for (int axis = 0; axis < 2; ++axis) {
      target[axis] = position.item[axis] * pixels.item[axis];
      if (size == 4) {
        target[2 + axis] =
            extent.item[axis] * pixels.item[axis] * static_cast<Real>(problem.box_unit);
      }
    }
  }
};

}  // namespace lite_focus
