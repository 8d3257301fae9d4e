// From the arrays of the sampler to the gradient tensors.
#pragma once

#include "cpu/sampling.h"

namespace lite_focus {

// The first n lanes; all, if there are as many.
template <typename Lanes, typename U>
LITE_FOCUS_INLINE void store_first(U* target, typename Lanes::Real x, int n) {
  if (n >= Lanes::kLanes) {
    Lanes::store(target, x);
  } else if (n > 0) {
    Lanes::store_first(target, x, n);
  }
}

template <typename Traits, typename U>
LITE_FOCUS_INLINE void store_lanes(const Sampler<Traits>& sampler,
                                   const typename Traits::Scalar* source, U* target) {
  using Lanes = typename Traits::Lanes;
  sampler.for_points([&](int i, int n) __attribute__((always_inline)) {
    store_first<Lanes>(target + i, Lanes::load(source + i), n);
  });
}

template <typename Traits>
LITE_FOCUS_INLINE void store_weight_gradients(const Sampler<Traits>& sampler,
                                              const Problem& problem, int64_t query, int head) {
  const auto* gradient = sampler.array(kGradAttention);
  const int64_t first = query * problem.weights_query_stride + head * problem.weights_head_stride;
  if (problem.weights_exact) {
    store_lanes(sampler, gradient,
                static_cast<typename Traits::Scalar*>(problem.grad_weights) + first);
  } else {
    store_lanes(sampler, gradient, static_cast<typename Traits::T*>(problem.grad_weights) + first);
  }
}

// The offset, as it was given, of a point of the item.
template <typename Traits>
LITE_FOCUS_INLINE typename Traits::Scalar offset_of(const Problem& problem, int64_t item, int point,
                                                    int axis) {
  const int stored = problem.point_levels * problem.points;
  const int64_t index = (item * stored + point % stored) * 2 + axis;
  return problem.sampling_exact
             ? static_cast<const typename Traits::Scalar*>(problem.sampling)[index]
             : Traits::Lanes::to_scalar(
                   static_cast<const typename Traits::T*>(problem.sampling)[index]);
}

// The chain rule from pixels to the reference of the item, summed over the points of a level.
template <bool kAdd, typename Traits>
LITE_FOCUS_INLINE void store_reference_gradients(const Sampler<Traits>& sampler,
                                                 const Problem& problem, int64_t item) {
  using Scalar = typename Traits::Scalar;
  const int size = problem.reference_size;
  Scalar* target = static_cast<Scalar*>(problem.grad_reference) + item * problem.levels * size;
  for (int l = 0, i = 0; l < problem.levels; ++l, target += size) {
    for (int axis = 0; axis < 2; ++axis) {
      const Scalar* gradient = sampler.array(axis == 0 ? kGradX : kGradY) + i;
      const Scalar pixels = Scalar(axis == 0 ? problem.level[l].width : problem.level[l].height);
      Scalar position = 0;
      Scalar extent = 0;
      for (int p = 0; p < problem.points; ++p) {
        position += gradient[p];
        extent += size == 4 ? gradient[p] * offset_of<Traits>(problem, item, i + p, axis) : 0;
      }
      target[axis] = position * pixels + (kAdd ? target[axis] : 0);
      if (size == 4) {
        extent *= pixels * Scalar(0.5) / Scalar(problem.points);
        target[2 + axis] = extent + (kAdd ? target[2 + axis] : 0);
      }
    }
    i += problem.points;
  }
}

template <bool kAdd, typename Traits, typename U>
LITE_FOCUS_INLINE void store_sampling_gradients(const Sampler<Traits>& sampler,
                                                const Problem& problem, U* target) {
  using Scalar = typename Traits::Scalar;
  using Lanes = typename Traits::Lanes;
  const Scalar* grad_x = sampler.array(kGradX);
  const Scalar* grad_y = sampler.array(kGradY);
  const Scalar* scale_x = sampler.array(kScaleX);
  const Scalar* scale_y = sampler.array(kScaleY);
  if (problem.point_levels == problem.levels) {
    constexpr int kLanes = Lanes::kLanes;
    sampler.for_points([&](int i, int n) __attribute__((always_inline)) {
      typename Lanes::Real low, high;
      Lanes::join_pairs(Lanes::load(grad_x + i) * Lanes::load(scale_x + i),
                        Lanes::load(grad_y + i) * Lanes::load(scale_y + i), low, high);
      if constexpr (kAdd) {
        low += Sampler<Traits>::load_first(target + 2 * i, 2 * n);
        high += Sampler<Traits>::load_first(target + 2 * i + kLanes, 2 * n - kLanes);
      }
      store_first<Lanes>(target + 2 * i, low, 2 * n);
      store_first<Lanes>(target + 2 * i + kLanes, high, 2 * n - kLanes);
    });
    return;
  }
  const int stored = problem.point_levels * problem.points;
  for (int i = 0; i < stored; ++i) {
    Scalar x = kAdd ? Lanes::to_scalar(target[2 * i]) : 0;
    Scalar y = kAdd ? Lanes::to_scalar(target[2 * i + 1]) : 0;
    for (int j = i; j < sampler.count(); j += stored) {
      x += grad_x[j] * scale_x[j];
      y += grad_y[j] * scale_y[j];
    }
    Lanes::store_scalar(target + 2 * i, x);
    Lanes::store_scalar(target + 2 * i + 1, y);
  }
}

// kAdd: to what is there.
template <bool kAdd, typename Traits>
LITE_FOCUS_INLINE void store_position_gradients(const Sampler<Traits>& sampler,
                                                const Problem& problem, int64_t item) {
  const int64_t first = item * problem.point_levels * problem.points * 2;
  if (problem.sampling_exact) {
    store_sampling_gradients<kAdd>(
        sampler, problem, static_cast<typename Traits::Scalar*>(problem.grad_sampling) + first);
  } else {
    store_sampling_gradients<kAdd>(sampler, problem,
                                   static_cast<typename Traits::T*>(problem.grad_sampling) + first);
  }
  if (problem.grad_reference != nullptr) {
    store_reference_gradients<kAdd>(sampler, problem, item);
  }
}

}  // namespace lite_focus
