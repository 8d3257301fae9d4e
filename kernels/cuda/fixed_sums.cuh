// Sums that do not depend on the order of their terms: in integers of 64 bits, in units of a power
// of two that leaves room for the largest possible sum. A kernel runs twice, first to find the
// largest term. A term that is not finite makes its sum NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "bilinear.h"
#include "cuda/vectors.cuh"
#include "problem.h"

namespace lite_focus {

struct FixedSums {
  void* result;                  // where numbers are stored at the end
  unsigned long long* integers;  // as many
  unsigned long long* largest;   // bits of the largest term
};

LITE_FOCUS_INLINE FixedSums value_sums(const Problem& problem) {
  return {problem.grad_value, static_cast<unsigned long long*>(problem.fixed_value),
          static_cast<unsigned long long*>(problem.largest_terms)};
}
LITE_FOCUS_INLINE FixedSums key_sums(const Problem& problem) {
  return {problem.grad_key, static_cast<unsigned long long*>(problem.fixed_key),
          static_cast<unsigned long long*>(problem.largest_terms) + 1};
}

template <typename Real>
__device__ __forceinline__ bool is_finite(Real x) {
  return x - x == 0;
}

// Of a double that is not negative; these have the order of their bits.
__device__ __forceinline__ unsigned long long bits_of(double x) {
  unsigned long long bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// The unit is 1 / fixed_scale for sums of up to 2^term_bits terms, the largest of which has the
// bits `largest`. 2^62 bounds the sums; units below 2^-900 are never needed.
__device__ __forceinline__ double fixed_scale(unsigned long long largest, int term_bits) {
  const int exponent = max(static_cast<int>(largest >> 52) - 1022, -800);  // largest < 2^exponent
  const unsigned long long bits = static_cast<unsigned long long>(1023 + 62 - term_bits - exponent)
                                  << 52;
  double scale;
  memcpy(&scale, &bits, sizeof(scale));
  return scale;
}

// Takes part in the search of the largest term, and writes NaN to the sum of one that is not
// finite.
template <int kCount, typename Real>
__device__ __forceinline__ void measure_terms(Real* sum, const Real (&term)[kCount],
                                              unsigned long long* largest) {
  double highest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (is_finite(term[i])) {
      highest = max(highest, static_cast<double>(fabs(term[i])));
    } else {
      sum[i] = NAN;
    }
  }
  const unsigned long long bits = bits_of(highest);
  if (bits > *const_cast<volatile unsigned long long*>(largest)) {
    atomicMax(largest, bits);
  }
}

template <int kCount, typename Real>
__device__ __forceinline__ void add_fixed(unsigned long long* sum, const Real (&term)[kCount],
                                          double scale) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (is_finite(term[i])) {
      // Negative numbers wrap around, and so does their sum.
      atomicAdd(sum + i, static_cast<unsigned long long>(llrint(term[i] * scale)));
    }
  }
}

// From units to numbers, where no term was NaN.
template <typename Real>
__global__ void finish_fixed_sums(FixedSums sums, int64_t count, int term_bits) {
  const double unit = 1 / fixed_scale(*sums.largest, term_bits);
  Real* result = static_cast<Real*>(sums.result);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    if (result[i] == result[i]) {
      const long long units = static_cast<long long>(sums.integers[i]);
      result[i] = static_cast<Real>(static_cast<double>(units) * unit);
    }
  }
}

}  // namespace lite_focus
