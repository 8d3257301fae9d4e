// Bilinear interpolation with zero padding and its gradient, one axis at a time; used with vectors
// on the CPU and with scalars on the GPU.
#pragma once

#if defined(__CUDACC__)
#define LITE_FOCUS_INLINE __host__ __device__ __forceinline__
#else
#define LITE_FOCUS_INLINE inline __attribute__((always_inline))
#endif

namespace lite_focus {

// The two pixels on both sides of a position. `index` is always inside of the map; pixels that are
// not have weight and slope zero. `slope` is the derivative of `weight` by the position.
template <typename Lanes>
struct Axis {
  typename Lanes::Real weight[2];
  typename Lanes::Real slope[2];
  typename Lanes::Int index[2];
};

// `position` is in pixels, 0 at the centre of the first one. Positions that are not in (-1, size)
// have no weight; NaN has the weight NaN, so that it shows in the result.
template <typename Lanes>
LITE_FOCUS_INLINE Axis<Lanes> interpolate(typename Lanes::Real position, typename Lanes::Int size) {
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  const Real zero{};
  const Int first{};
  const auto inside = (position > zero - 1) & (position < Lanes::to_real(size));
  const Real outside_weight = position != position ? position : zero;
  const Real x = inside ? position : zero;
  const Int lower = Lanes::floor(x);
  const Int upper = lower + 1;
  const Real fraction = x - Lanes::to_real(lower);
  const auto has_lower = inside & (lower >= first);
  const auto has_upper = inside & (upper < size);
  Axis<Lanes> axis;
  axis.weight[0] = has_lower ? 1 - fraction : outside_weight;
  axis.weight[1] = has_upper ? fraction : outside_weight;
  axis.slope[0] = has_lower ? zero - 1 : zero;
  axis.slope[1] = has_upper ? zero + 1 : zero;
  axis.index[0] = lower > first ? lower : first;
  axis.index[1] = upper < size ? upper : size - 1;
  return axis;
}

// Derivatives by x and y of the value interpolated from `corner`, whose order is
// (y0, x0), (y0, x1), (y1, x0), (y1, x1).
template <typename Lanes>
struct Gradient {
  typename Lanes::Real x;
  typename Lanes::Real y;
};

template <typename Lanes>
LITE_FOCUS_INLINE Gradient<Lanes> differentiate(const Axis<Lanes>& x, const Axis<Lanes>& y,
                                                const typename Lanes::Real corner[4]) {
  return {
      y.weight[0] * (x.slope[0] * corner[0] + x.slope[1] * corner[1]) +
          y.weight[1] * (x.slope[0] * corner[2] + x.slope[1] * corner[3]),
      x.weight[0] * (y.slope[0] * corner[0] + y.slope[1] * corner[2]) +
          x.weight[1] * (y.slope[0] * corner[1] + y.slope[1] * corner[3]),
  };
}

}  // namespace lite_focus
