// Multi-scale deformable attention: output = sum_p attention_p * value(x_p), and its gradient.
#include "cuda/launch.h"
#include "cuda/sampling.cuh"

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
__global__ void __launch_bounds__(kThreads)
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
        Real pixel[kVector];
        load(head + channel + point.offset[c], pixel);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sum[i] += point.weight[c] * pixel[i];
        }
      }
    }
    if (item.exists) {
      store(static_cast<T*>(problem.output) + item.channel_offset() + channel, sum);
    }
  });
}

// Products of the gradient of the output with the four corners of a point, and the sums into the
// gradient of value.
template <typename Traits>
__device__ __forceinline__ void value_gradients(const Item<Traits>& item,
                                                const Point<Traits>& point,
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
      Real pixel[kVector];
      load(head + channel + point.offset[c], pixel);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        dots[c] += gradient[i] * pixel[i];
      }
      const Real weight = attention * point.weight[c];
      // Corners outside of the map have no weight: no traffic for them.
      if (item.exists && weight != 0) {
        add_atomically(grad_head + channel + point.offset[c], weight, gradient);
      }
    }
  });
}

template <typename Traits>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks)
    ms_deform_attn_backward_kernel(const __grid_constant__ Problem problem) {
  using Real = typename Traits::Real;
  extern __shared__ __align__(64) char memory[];
  const Item<Traits> item(problem);
  const int count = item.count();
  char* free_memory = memory;
  auto* points = shared_array<Point<Traits>, Traits>(free_memory, count);
  auto* dots = shared_array<Packet<Real, 4>, Traits>(free_memory, count);
  auto* attention = shared_array<Real, Traits>(free_memory, count);
  auto* grad_x = shared_array<Real, Traits>(free_memory, count);
  auto* grad_y = shared_array<Real, Traits>(free_memory, count);

  load_attention(item, attention);
  item.for_points([&](int p) { points[p] = item.locate(p, item.axes(p)); });
  __syncwarp();
#pragma unroll 2
  for (int p = 0; p < count; ++p) {
    Real partial[4] = {};
    value_gradients(item, points[p], attention[p], partial);
    group_sums<4, Traits::kLanes>(partial, dots[p].item, item.lane);
  }
  __syncwarp();

  Real mean = 0;
  item.for_points([&](int p) {
    const auto axes = item.axes(p);
    const Real a = attention[p];
    const auto gradient = differentiate<Scalars<Real>>(axes.x, axes.y, dots[p].item);
    grad_x[p] = a * gradient.x;
    grad_y[p] = a * gradient.y;
    item.store_position_gradient(p, grad_x[p], grad_y[p]);
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
  item.store_summed_gradients(grad_x, grad_y);
}

template <typename Traits>
cudaError_t launch(const Problem& problem, bool backward, cudaStream_t stream) {
  using Real = typename Traits::Real;
  const int64_t points = int64_t{problem.levels} * problem.points * Traits::kGroups;
  const dim3 grid = grid_of<Traits>(problem);
  if (backward) {
    const size_t bytes = points * (sizeof(Point<Traits>) + 7 * sizeof(Real));
    return launch_kernel(ms_deform_attn_backward_kernel<Traits>, problem, grid, bytes, stream);
  }
  const size_t bytes = points * (sizeof(Point<Traits>) + sizeof(Real));
  return launch_kernel(ms_deform_attn_kernel<Traits>, problem, grid, bytes, stream);
}

}  // namespace

cudaError_t launch_ms_deform_attn(const Problem& problem, bool backward, cudaStream_t stream) {
  return with_traits<4, 8>(
      problem, [&](auto traits) { return launch<decltype(traits)>(problem, backward, stream); });
}

}  // namespace lite_focus
