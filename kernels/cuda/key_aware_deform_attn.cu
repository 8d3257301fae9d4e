// Key-aware deformable attention: output = sum_p softmax_p(scale * query . key(x_p)) * value(x_p),
// and its gradient. With mask_outside the softmax is over the points inside of their maps.
#include "cuda/tile.cuh"

namespace lite_focus {
namespace {

template <typename Traits>
__device__ __forceinline__ void interpolate_at(const typename Traits::T* head,
                                               const Point<Traits>& point,
                                               typename Traits::Real (&sample)[Traits::kVector]) {
#pragma unroll
  for (int i = 0; i < Traits::kVector; ++i) {
    sample[i] = 0;
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    typename Traits::Real pixel[Traits::kVector] = {};
    if (point.corner[c] >= 0) {
      load(head + point.corner[c], pixel);
    }
#pragma unroll
    for (int i = 0; i < Traits::kVector; ++i) {
      sample[i] += point.weight[c] * pixel[i];
    }
  }
}

// The axes of a point. One that is masked out has no weight on either of them, also where it is not
// a number.
template <typename Traits>
__device__ __forceinline__ typename Item<Traits>::Axes key_axes(const Item<Traits>& item,
                                                                int point) {
  using Real = typename Traits::Real;
  auto axes = item.axes(point);
  if (item.problem.mask_outside) {
    const Real x = axes.x.weight[0] + axes.x.weight[1];
    const Real y = axes.y.weight[0] + axes.y.weight[1];
    if (!(x > 0 && y > 0)) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        axes.x.weight[side] = axes.y.weight[side] = 0;
      }
    }
  }
  return axes;
}

// In place, over the points of the group.
template <typename Traits>
__device__ __forceinline__ void masked_softmax(const Item<Traits>& item,
                                               const Point<Traits>* points,
                                               typename Traits::Real* logits) {
  if (item.problem.mask_outside) {
// One at a time: a forward kernel has few registers to spare.
#pragma unroll 1
    for (int p = item.lane; p < item.count(); p += Traits::kLanes) {
      const auto& weight = points[p].weight;
      if (weight[0] + weight[1] + weight[2] + weight[3] == 0) {
        logits[p] = kMaskedLogit;
      }
    }
  }
  item.softmax(logits);
}

// Key and value are each read once: samples of a shared key stay in registers.
template <typename Traits, bool kShared>
__global__ void __launch_bounds__(Traits::kThreads)
    key_aware_deform_attn_kernel(const __grid_constant__ Problem problem) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  constexpr bool kKeep = kShared && Traits::kPoints != 0;
  extern __shared__ __align__(64) char memory[];
  const Item<Traits> item(problem);
  const int count = item.count();
  char* free_memory = memory;
  auto* points = shared_array<Point<Traits>, Traits>(free_memory, count);
  auto* attention = shared_array<Real, Traits>(free_memory, count);
  item.for_points([&](int p) { points[p] = item.locate(p, key_axes(item, p)); });
  __syncwarp();

  const T* value = static_cast<const T*>(problem.value) + item.map_offset();
  const T* key = kShared ? value : static_cast<const T*>(problem.key) + item.map_offset();
  const T* query = static_cast<const T*>(problem.query) + item.channel_offset();
  const Real scale = static_cast<Real>(problem.scale);
  Real kept[kKeep ? Traits::kPoints : 1][kVector];
  if constexpr (Traits::kPoints != 0) {
    const int channel = item.lane * kVector;
    Real logits[Traits::kPoints];
    Real q[kVector];
    load(query + channel, q);
#pragma unroll
    for (int p = 0; p < Traits::kPoints; ++p) {
      Real sample[kVector];
      interpolate_at<Traits>(key + channel, points[p], sample);
      logits[p] = 0;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        logits[p] += scale * q[i] * sample[i];
        if constexpr (kKeep) {
          kept[p][i] = sample[i];
        }
      }
    }
    group_sums<Traits::kPoints, Traits::kLanes>(logits, attention, item.lane);
  } else {
    for (int p = 0; p < count; ++p) {
      Real logit[1] = {};
      item.for_channels([&](int channel) {
        Real sample[kVector];
        interpolate_at<Traits>(key + channel, points[p], sample);
        logit[0] += scale * to_real(query[channel]) * sample[0];
      });
      group_sums<1, Traits::kLanes>(logit, attention + p, item.lane);
    }
  }
  __syncwarp();
  masked_softmax(item, points, attention);
  __syncwarp();

  item.for_channels([&](int channel) {
    Real sum[kVector] = {};
#pragma unroll
    for (int p = 0; p < count; ++p) {
      Real sample[kVector];
      if constexpr (!kKeep) {
        interpolate_at<Traits>(value + channel, points[p], sample);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum[i] += attention[p] * (kKeep ? kept[kKeep ? p : 0][i] : sample[i]);
      }
    }
    if (item.exists) {
      store(static_cast<T*>(problem.output) + item.channel_offset() + channel, sum);
    }
  });
}

// What the corners of a point contribute: products of the query with the key and of the gradient
// of the output with the value.
template <typename Traits, bool kShared>
__device__ __forceinline__ void corner_dots(const Item<Traits>& item, const Point<Traits>& point,
                                            typename Traits::Real (&dots)[8]) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  const Problem& problem = item.problem;
  const T* value = static_cast<const T*>(problem.value) + item.map_offset();
  const T* key = kShared ? value : static_cast<const T*>(problem.key) + item.map_offset();
  const Real scale = static_cast<Real>(problem.scale);
  item.for_channels([&](int channel) {
    Real q[kVector];
    Real gradient[kVector];
    load(static_cast<const T*>(problem.query) + item.channel_offset() + channel, q);
    load(static_cast<const T*>(problem.grad_output) + item.channel_offset() + channel, gradient);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const auto offset = item.offset_of(point.corner[c]);
      if (offset < 0) {
        continue;
      }
      Real k[kVector];
      Real v[kVector];
      load(key + channel + offset, k);
      if constexpr (!kShared) {
        load(value + channel + offset, v);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        dots[c] += scale * q[i] * k[i];
        dots[4 + c] += gradient[i] * (kShared ? k[i] : v[i]);
      }
    }
  });
}

// The gradient of the query, and outside of tiles the sums into those of key and value, from the
// factors of value and key at every point.
template <typename Traits, bool kShared>
__device__ __forceinline__ void sum_gradients(const Item<Traits>& item, const Point<Traits>* points,
                                              const typename Traits::Real* value_factors,
                                              const typename Traits::Real* key_factors) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  const Problem& problem = item.problem;
  const int64_t head = item.map_offset();
  item.for_channels([&](int channel) {
    const int64_t own = item.channel_offset() + channel;
    const T* key = static_cast<const T*>(kShared ? problem.value : problem.key) + head + channel;
    Real* grad_value = static_cast<Real*>(problem.grad_value) + head + channel;
    Real* grad_key = static_cast<Real*>(problem.grad_key) + head + channel;
    Real q[kVector];
    Real gradient[kVector];
    Real grad_query[kVector] = {};
    load(static_cast<const T*>(problem.query) + own, q);
    load(static_cast<const T*>(problem.grad_output) + own, gradient);
#pragma unroll 2
    for (int p = 0; p < item.count(); ++p) {
      const Point<Traits> point = points[p];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const auto offset = item.offset_of(point.corner[c]);
        if (offset < 0) {
          continue;
        }
        const Real value_weight = value_factors[p] * point.weight[c];
        const Real key_weight = key_factors[p] * point.weight[c];
        Real k[kVector];
        Real both[kVector];
        load(key + offset, k);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          grad_query[i] += key_weight * k[i];
          both[i] = value_weight * gradient[i] + key_weight * q[i];
        }
        if (!Traits::kTiled && item.exists && point.weight[c] != 0) {
          if constexpr (kShared) {
            add_atomically(grad_value + offset, Real(1), both);
          } else {
            add_atomically(grad_value + offset, value_weight, gradient);
            add_atomically(grad_key + offset, key_weight, q);
          }
        }
      }
    }
    if (item.exists) {
      store(static_cast<T*>(problem.grad_query) + own, grad_query);
    }
  });
}

// All gradients of an item; in a tile those of value and key are left to do from `points`, and from
// their factors at every point: `attention`, and `grad_logits` times the scale.
template <typename Traits, bool kShared>
__device__ __forceinline__ void differentiate_item(const Item<Traits>& item, Point<Traits>* points,
                                                   typename Traits::Real* attention,
                                                   typename Traits::Real* grad_logits,
                                                   const Scratch<Traits, 8>& scratch) {
  using Real = typename Traits::Real;
  const auto dots = scratch.dots;
  item.for_points([&](int p) { points[p] = item.locate(p, key_axes(item, p)); });
  __syncwarp();
#pragma unroll 2
  for (int p = 0; p < item.count(); ++p) {
    Real partial[8] = {};
    corner_dots<Traits, kShared>(item, points[p], partial);
    group_sums<8, Traits::kLanes>(partial, dots[p].item, item.lane);
  }
  __syncwarp();

  item.for_points([&](int p) {
    attention[p] = 0;
    grad_logits[p] = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      attention[p] += points[p].weight[c] * dots[p].item[c];
      grad_logits[p] += points[p].weight[c] * dots[p].item[4 + c];
    }
  });
  masked_softmax(item, points, attention);
  Real mean = 0;
  item.for_points([&](int p) { mean += attention[p] * grad_logits[p]; });
  mean = group_sum<Traits::kLanes>(mean);
  item.for_points([&](int p) {
    const Real a = attention[p];
    const Real grad_logit = a * (grad_logits[p] - mean);
    grad_logits[p] = grad_logit * static_cast<Real>(item.problem.scale);
    Real corners[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      corners[c] = a * dots[p].item[4 + c] + grad_logit * dots[p].item[c];
    }
    const auto axes = key_axes(item, p);
    const auto gradient = differentiate<Scalars<Real>>(axes.x, axes.y, corners);
    scratch.grad_x[p] = gradient.x;
    scratch.grad_y[p] = gradient.y;
    item.store_position_gradient(p, gradient.x, gradient.y);
  });
  __syncwarp();
  item.store_summed_gradients(scratch.grad_x, scratch.grad_y);
  sum_gradients<Traits, kShared>(item, points, attention, grad_logits);
}

template <typename Traits, bool kShared>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBackwardBlocks)
    key_aware_deform_attn_backward_kernel(const __grid_constant__ Problem problem) {
  using Real = typename Traits::Real;
  extern __shared__ __align__(64) char memory[];
  const Item<Traits> item(problem);
  const int count = item.count();
  char* free_memory = memory;
  auto* points = shared_array<Point<Traits>, Traits>(free_memory, count);
  const Scratch<Traits, 8> scratch(free_memory, count);
  auto* attention = shared_array<Real, Traits>(free_memory, count);
  auto* grad_logits = shared_array<Real, Traits>(free_memory, count);
  differentiate_item<Traits, kShared>(item, points, attention, grad_logits, scratch);
}

template <typename Real, int kVector>
struct Sums {
  Real value[kVector];
  Real key[kVector];
};

template <typename Traits, bool kShared>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBackwardBlocks)
    key_aware_deform_attn_backward_tile_kernel(const __grid_constant__ Problem problem,
                                               const __grid_constant__ QueryGrid grid) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  extern __shared__ __align__(64) char memory[];
  char* free_memory = memory;
  auto* points = tile_array<Point<Traits>>(free_memory);
  auto* value_factors = tile_array<Real>(free_memory);
  auto* key_factors = tile_array<Real>(free_memory);
  auto& lists = *reinterpret_cast<CornerLists*>(free_memory);  // in place of the scratch
  const Scratch<Traits, 8> scratch(free_memory, kTilePoints);
  const Tile tile(problem, grid);
// The next item of a group meets a barrier before it writes to the scratch.
#pragma unroll 1
  for (int place = threadIdx.x / Traits::kLanes; place < kTileQueries; place += Traits::kGroups) {
    const int first = place * kTilePoints;
    differentiate_item<Traits, kShared>(tile.item_at<Traits>(place), points + first,
                                        value_factors + first, key_factors + first, scratch);
  }
  __syncthreads();

  lists.build(tile, points);
  const int channel = threadIdx.x % Traits::kLanes * kVector;
  const T* query = static_cast<const T*>(problem.query) + channel;
  const T* grad_output = static_cast<const T*>(problem.grad_output) + channel;
  lists.sum<Traits, Sums<Real, kVector>>(
      points,
      [&](Sums<Real, kVector>& sums, int corner, Real weight) {
        const int64_t row = tile.row_offset<Traits>(corner);
        const Real value_weight = value_factors[corner / 4] * weight;
        const Real key_weight = key_factors[corner / 4] * weight;
        Real gradient[kVector];
        Real q[kVector];
        load(grad_output + row, gradient);
        load(query + row, q);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sums.value[i] += value_weight * gradient[i];
          (kShared ? sums.value : sums.key)[i] += key_weight * q[i];
        }
      },
      [&](const Sums<Real, kVector>& sums, int token) {
        const int64_t offset = tile.token_offset(token) + channel;
        add_atomically(static_cast<Real*>(problem.grad_value) + offset, Real(1), sums.value);
        if constexpr (!kShared) {
          add_atomically(static_cast<Real*>(problem.grad_key) + offset, Real(1), sums.key);
        }
      });
}

template <typename Traits, bool kShared>
cudaError_t launch(const Problem& problem, bool backward, cudaStream_t stream) {
  using Real = typename Traits::Real;
  if constexpr (Traits::kPoints == kTilePoints) {
    const QueryGrid grid = find_grid(problem);
    if (backward && grid.tiles > 0) {
      using Tiled = typename Traits::Tiled;
      const auto kernel = key_aware_deform_attn_backward_tile_kernel<Tiled, kShared>;
      const size_t bytes = sizeof(Point<Tiled>) + 2 * sizeof(Real);
      return launch_tiles<Tiled, Scratch<Tiled, 8>>(kernel, bytes, problem, grid, stream);
    }
  }
  const int64_t points = int64_t{problem.levels} * problem.points * Traits::kGroups;
  const size_t extra = backward ? Scratch<Traits, 8>::kBytes + 2 * sizeof(Real) : sizeof(Real);
  const auto kernel = backward ? key_aware_deform_attn_backward_kernel<Traits, kShared>
                               : key_aware_deform_attn_kernel<Traits, kShared>;
  return launch_kernel(kernel, blocks_of<Traits>(problem), Traits::kThreads,
                       points * (sizeof(Point<Traits>) + extra), stream, problem);
}

}  // namespace

// Four channels per thread also in half precision: the samples of a shared key, 16 times as many
// registers, would not fit otherwise.
cudaError_t launch_key_aware_deform_attn(const Problem& problem, bool backward,
                                         cudaStream_t stream) {
  return with_traits<4, 4>(problem, [&](auto traits) {
    return problem.key == nullptr ? launch<decltype(traits), true>(problem, backward, stream)
                                  : launch<decltype(traits), false>(problem, backward, stream);
  });
}

}  // namespace lite_focus
