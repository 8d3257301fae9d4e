// Multi-scale deformable attention: output = sum_p attention_p * value(x_p), and its gradient.
#include "cuda/tile.cuh"

namespace lite_focus {
namespace {

// Points with their attention multiplied in (forward) or apart (backward).
template <typename Traits>
__device__ __forceinline__ void load_attention(const Item<Traits>& item,
                                               typename Traits::Real* attention) {
  item.for_points([&](int p) { attention[p] = item.weight_of(p); });
  if (item.problem.weights_are_logits) {
    item.softmax(attention);
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads)
    ms_deform_attn_kernel(const __grid_constant__ Problem problem) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  extern __shared__ __align__(64) char memory[];
  const Item<Traits> item(problem);
  char* free_memory = memory;
  auto* points = shared_array<Point<Traits>, Traits>(free_memory, item.count());
  auto* attention = shared_array<Real, Traits>(free_memory, item.count());

  load_attention(item, attention);
  item.for_points([&](int p) {
    Point<Traits> point = item.locate(p, item.axes(p));
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      point.weight[c] *= attention[p];
      // Zero times a weight that is not finite shows in the output.
      point.corner[c] = point.weight[c] == point.weight[c] ? point.corner[c] : 0;
    }
    points[p] = point;
  });
  __syncwarp();

  const T* head = static_cast<const T*>(problem.value) + item.map_offset();
  item.for_channels([&](int channel) {
    Real sum[kVector] = {};
#pragma unroll 4
    for (int p = 0; p < item.count(); ++p) {
      const Point<Traits> point = points[p];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (point.corner[c] >= 0) {
          Real pixel[kVector];
          load(head + channel + point.corner[c], pixel);
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            sum[i] += point.weight[c] * pixel[i];
          }
        }
      }
    }
    if (item.exists) {
      store(static_cast<T*>(problem.output) + item.channel_offset() + channel, sum);
    }
  });
}

// Products of the gradient of the output with the four corners of a point, and outside of tiles the
// sums into the gradient of value.
template <typename Traits>
__device__ __forceinline__ void corner_dots(const Item<Traits>& item, const Point<Traits>& point,
                                            typename Traits::Real attention,
                                            typename Traits::Real (&dots)[4]) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  const Problem& problem = item.problem;
  const T* head = static_cast<const T*>(problem.value) + item.map_offset();
  Real* grad_head = static_cast<Real*>(problem.grad_value) + item.map_offset();
  item.for_channels([&](int channel) {
    Real gradient[kVector];
    load(static_cast<const T*>(problem.grad_output) + item.channel_offset() + channel, gradient);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const auto offset = item.offset_of(point.corner[c]);
      if (offset < 0) {
        continue;
      }
      Real pixel[kVector];
      load(head + channel + offset, pixel);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        dots[c] += gradient[i] * pixel[i];
      }
      if constexpr (!Traits::kTiled) {
        const Real weight = attention * point.weight[c];
        // No traffic where it changes nothing.
        if (item.exists && weight != 0) {
          add_atomically(grad_head + channel + offset, weight, gradient);
        }
      }
    }
  });
}

// All gradients of an item; in a tile the one of value is left to do, from points and attention.
template <typename Traits>
__device__ __forceinline__ void differentiate_item(const Item<Traits>& item, Point<Traits>* points,
                                                   typename Traits::Real* attention,
                                                   const Scratch<Traits, 4>& scratch) {
  using Real = typename Traits::Real;
  const Problem& problem = item.problem;
  const int count = item.count();
  const auto dots = scratch.dots;
  load_attention(item, attention);
  item.for_points([&](int p) { points[p] = item.locate(p, item.axes(p)); });
  __syncwarp();
#pragma unroll 2
  for (int p = 0; p < count; ++p) {
    Real partial[4] = {};
    corner_dots(item, points[p], attention[p], partial);
    group_sums<4, Traits::kLanes>(partial, dots[p].item, item.lane);
  }
  __syncwarp();

  Real mean = 0;
  item.for_points([&](int p) {
    const auto axes = item.axes(p);
    const Real a = attention[p];
    const auto gradient = differentiate<Scalars<Real>>(axes.x, axes.y, dots[p].item);
    scratch.grad_x[p] = a * gradient.x;
    scratch.grad_y[p] = a * gradient.y;
    item.store_position_gradient(p, scratch.grad_x[p], scratch.grad_y[p]);
    Real grad_attention = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      grad_attention += points[p].weight[c] * dots[p].item[c];
    }
    mean += a * grad_attention;
    dots[p].item[0] = grad_attention;
  });
  mean = problem.weights_are_logits ? group_sum<Traits::kLanes>(mean) : Real(0);
  item.for_points([&](int p) {
    const Real factor = problem.weights_are_logits ? attention[p] : Real(1);
    if (item.exists) {
      const Real gradient = factor * (dots[p].item[0] - mean);
      item.write(problem.grad_weights, problem.weights_exact, item.index * count + p, gradient);
    }
  });
  __syncwarp();
  item.store_summed_gradients(scratch.grad_x, scratch.grad_y);
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBackwardBlocks)
    ms_deform_attn_backward_kernel(const __grid_constant__ Problem problem) {
  extern __shared__ __align__(64) char memory[];
  const Item<Traits> item(problem);
  char* free_memory = memory;
  auto* points = shared_array<Point<Traits>, Traits>(free_memory, item.count());
  const Scratch<Traits, 4> scratch(free_memory, item.count());
  auto* attention = shared_array<typename Traits::Real, Traits>(free_memory, item.count());
  differentiate_item(item, points, attention, scratch);
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBackwardBlocks)
    ms_deform_attn_backward_tile_kernel(const __grid_constant__ Problem problem,
                                        const __grid_constant__ QueryGrid grid) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  extern __shared__ __align__(64) char memory[];
  char* free_memory = memory;
  auto* points = tile_array<Point<Traits>>(free_memory);
  auto* attention = tile_array<Real>(free_memory);
  auto& lists = *reinterpret_cast<CornerLists*>(free_memory);  // in place of the scratch
  const Scratch<Traits, 4> scratch(free_memory, kTilePoints);
  const Tile tile(problem, grid);
// The next item of a group meets a barrier before it writes to the scratch.
#pragma unroll 1
  for (int place = threadIdx.x / Traits::kLanes; place < kTileQueries; place += Traits::kGroups) {
    const int first = place * kTilePoints;
    differentiate_item(tile.item_at<Traits>(place), points + first, attention + first, scratch);
  }
  __syncthreads();

  lists.build(tile, points);
  const int channel = threadIdx.x % Traits::kLanes * kVector;
  const T* grad_output = static_cast<const T*>(problem.grad_output) + channel;
  Real* grad_value = static_cast<Real*>(problem.grad_value) + channel;
  using Sum = Packet<Real, kVector>;
  lists.sum<Traits, Sum>(
      points,
      [&](Sum& sum, int corner, Real weight) {
        Real gradient[kVector];
        load(grad_output + tile.row_offset<Traits>(corner), gradient);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sum.item[i] += attention[corner / 4] * weight * gradient[i];
        }
      },
      [&](const Sum& sum, int token) {
        add_atomically(grad_value + tile.token_offset(token), Real(1), sum.item);
      });
}

template <typename Traits>
cudaError_t launch(const Problem& problem, bool backward, cudaStream_t stream) {
  using Real = typename Traits::Real;
  if constexpr (Traits::kPoints == kTilePoints) {
    const QueryGrid grid = find_grid(problem);
    if (backward && grid.tiles > 0) {
      using Tiled = typename Traits::Tiled;
      return launch_tiles<Tiled, Scratch<Tiled, 4>>(ms_deform_attn_backward_tile_kernel<Tiled>,
                                                    sizeof(Point<Tiled>) + sizeof(Real), problem,
                                                    grid, stream);
    }
  }
  const int64_t points = int64_t{problem.levels} * problem.points * Traits::kGroups;
  const size_t extra = sizeof(Real) + (backward ? Scratch<Traits, 4>::kBytes : 0);
  const auto kernel =
      backward ? ms_deform_attn_backward_kernel<Traits> : ms_deform_attn_kernel<Traits>;
  return launch_kernel(kernel, blocks_of<Traits>(problem), Traits::kThreads,
                       points * (sizeof(Point<Traits>) + extra), stream, problem);
}

}  // namespace

cudaError_t launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream) {
  return with_traits<4, 8>(
      problem, [&](auto traits) { return launch<decltype(traits)>(problem, backward, stream); });
}

}  // namespace lite_focus
