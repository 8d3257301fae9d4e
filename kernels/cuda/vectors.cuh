// Packets of channels, reductions over the lanes of a group, and sums into global memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace lite_focus {

constexpr unsigned kWarp = 0xffffffffu;

template <typename Real_>
struct Scalars {
  using Real = Real_;
  using Int = int;
  static __device__ __forceinline__ Real to_real(int x) { return static_cast<Real>(x); }
  static __device__ __forceinline__ int floor(Real x) { return static_cast<int>(::floor(x)); }
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

// The compiler computes again what depends on x, where it would keep it.
__device__ __forceinline__ void make_opaque(int& x) { asm volatile("" : "+r"(x)); }

// Keeps a pointer to global memory in one piece: an offset is then added to it in one instruction.
template <typename T>
__device__ __forceinline__ void make_global(T*& pointer) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
}

// Of a number that is neither large nor small: without the steps that division takes for those.
__device__ __forceinline__ double reciprocal(double x) { return 1 / x; }
__device__ __forceinline__ float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1, x);
#else
  return 1 / x;
#endif
}

// kCount values in accesses of up to 128 bits.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Packet {
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

// target += source, atomically per element and without a result.
template <int kCount, typename Real>
__device__ __forceinline__ void add_atomically(Real* target, const Real (&source)[kCount]) {
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
                   : "l"(target + i), "f"(source[i]), "f"(source[i + 1]), "f"(source[i + 2]),
                     "f"(source[i + 3])
                   : "memory");
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      atomicAdd(target + i, source[i]);
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

}  // namespace lite_focus
