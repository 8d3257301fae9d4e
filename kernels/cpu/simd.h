// Vectors of kBytes bytes on top of the vector extension of GCC and Clang: one source for SSE2 and
// NEON (16), AVX2 (32) and AVX-512 (64). A file that is compiled for an instruction set must
// not share inline functions with the others, therefore everything here is a template on kBytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "bilinear.h"

namespace lite_focus {

// Storage of half precision; the arithmetic is always in float.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <typename Scalar_, int kBytes>
struct Simd {
  using Scalar = Scalar_;
  using IntScalar = std::conditional_t<sizeof(Scalar) == 4, int32_t, int64_t>;
  static constexpr int kLanes = kBytes / sizeof(Scalar);
  // Dependent names of types that do not depend on anything: GCC drops the attribute otherwise.
  using ShortScalar = std::conditional_t<sizeof(Scalar) != 0, uint16_t, void>;
  using BitsScalar = std::conditional_t<sizeof(Scalar) != 0, uint32_t, void>;

  typedef Scalar Real __attribute__((vector_size(kBytes)));
  typedef IntScalar Int __attribute__((vector_size(kBytes)));
  typedef BitsScalar Bits __attribute__((vector_size(kLanes * 4)));
  typedef ShortScalar Short __attribute__((vector_size(kLanes * 2)));

  static LITE_FOCUS_INLINE Real broadcast(Scalar x) { return x - Real{}; }

  static LITE_FOCUS_INLINE Real to_real(Int x) { return __builtin_convertvector(x, Real); }

  // Exact for values that fit into the integer; the callers have bounded them.
  static LITE_FOCUS_INLINE Int floor(Real x) {
    const Int truncated = __builtin_convertvector(x, Int);
    return truncated + (to_real(truncated) > x);
  }

  template <typename Vector, typename T>
  static LITE_FOCUS_INLINE Vector load_raw(const T* source) {
    Vector vector;
    std::memcpy(&vector, source, sizeof(vector));
    return vector;
  }

  static LITE_FOCUS_INLINE Int load_int(const IntScalar* source) { return load_raw<Int>(source); }
  static LITE_FOCUS_INLINE Real load(const Scalar* source) { return load_raw<Real>(source); }
  static LITE_FOCUS_INLINE Real load(const BFloat16* source) {
    return (Real)(__builtin_convertvector(load_raw<Short>(source), Bits) << 16);
  }
  static LITE_FOCUS_INLINE Real load(const Half* source) {
#if defined(__F16C__)
    if constexpr (kBytes == 32) {
      return (Real)_mm256_cvtph_ps(load_raw<__m128i>(source));
    }
#endif
#if defined(__AVX512F__)
    if constexpr (kBytes == 64) {
      return (Real)_mm512_cvtph_ps(load_raw<__m256i>(source));
    }
#endif
    return from_half(__builtin_convertvector(load_raw<Short>(source), Bits));
  }

  static LITE_FOCUS_INLINE Scalar to_scalar(Scalar x) { return x; }
  template <typename T>
  static LITE_FOCUS_INLINE Scalar to_scalar(T x) {
    const T lanes[kLanes] = {x};
    return load(lanes)[0];
  }
  static LITE_FOCUS_INLINE void store_scalar(Scalar* target, Scalar x) { *target = x; }
  template <typename T>
  static LITE_FOCUS_INLINE void store_scalar(T* target, Scalar x) {
    T lanes[kLanes];
    store(lanes, broadcast(x));
    *target = lanes[0];
  }

  static LITE_FOCUS_INLINE void store(Scalar* target, Real x) {
    std::memcpy(target, &x, sizeof(x));
  }
  static LITE_FOCUS_INLINE void store(BFloat16* target, Real x) {
    const Bits bits = (Bits)x;
    const Bits nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
    const Bits rounded = x == x ? nearest_even : (bits | 0x400000);
    const Short result = __builtin_convertvector(rounded >> 16, Short);
    std::memcpy(target, &result, sizeof(result));
  }
  static LITE_FOCUS_INLINE void store(Half* target, Real x) {
#if defined(__F16C__)
    if constexpr (kBytes == 32) {
      const __m128i result = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(target, &result, sizeof(result));
      return;
    }
#endif
#if defined(__AVX512F__)
    if constexpr (kBytes == 64) {
      const __m256i result = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(target, &result, sizeof(result));
      return;
    }
#endif
    const Short result = __builtin_convertvector(to_half(x), Short);
    std::memcpy(target, &result, sizeof(result));
  }

  // table[index] per lane; `small`: the table and its memory have two vectors at most.
  static LITE_FOCUS_INLINE Real lookup(const Scalar* table, Int index, bool small) {
#if !defined(__clang__)
    if (small) {
      return __builtin_shuffle(load(table), load(table + kLanes), index);
    }
#endif
    Real result;
    for (int i = 0; i < kLanes; ++i) {
      result[i] = table[index[i]];
    }
    return result;
  }

  // Splits x0 y0 x1 y1 ... into x and y.
  static LITE_FOCUS_INLINE void split_pairs(Real low, Real high, Real& x, Real& y) {
    split_pairs(low, high, x, y, std::make_integer_sequence<int, kLanes>());
  }
  static LITE_FOCUS_INLINE void join_pairs(Real x, Real y, Real& low, Real& high) {
    join_pairs(x, y, low, high, std::make_integer_sequence<int, kLanes>());
  }

  // Lane i of the result is the sum over the lanes of rows[i]; overwrites the rows.
  static LITE_FOCUS_INLINE Real sum_rows(Real* rows) {
    fold_rows<1>(rows);
    return rows[0];
  }

  static LITE_FOCUS_INLINE Scalar sum(Real x) {
    return reduce<1>(x, [](Real a, Real b) __attribute__((always_inline)) { return a + b; });
  }
  static LITE_FOCUS_INLINE Scalar maximum(Real x) {
    return reduce<1>(x,
                     [](Real a, Real b) __attribute__((always_inline)) { return a > b ? a : b; });
  }

  // exp(x) for x <= 0 to 2 ulp: a polynomial on [-ln 2 / 2, ln 2 / 2] and a power of two.
  static LITE_FOCUS_INLINE Real exp_of_negative(Real x) {
    if constexpr (sizeof(Scalar) == 8) {
      Real result;
      for (int i = 0; i < kLanes; ++i) {
        result[i] = __builtin_exp(x[i]);
      }
      return result;
    } else {
      const Real lowest = broadcast(-87.0f);
      x = x < lowest ? lowest : x;
      const Int power = floor(x * 1.44269504f + 0.5f);
      const Real whole = to_real(power);
      // ln 2 in two parts, so that the difference is exact.
      const Real r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
      // Taylor coefficients 1/7! ... 1/2!.
      Real series = broadcast(1.984126984e-4f);
      series = series * r + 1.388888889e-3f;
      series = series * r + 8.333333333e-3f;
      series = series * r + 4.166666667e-2f;
      series = series * r + 1.666666667e-1f;
      series = series * r + 0.5f;
      series = series * (r * r) + r + 1.0f;
      return series * (Real)((power + 127) << 23);
    }
  }

 private:
  static LITE_FOCUS_INLINE Real from_half(Bits half) {
    const Bits magnitude = half & 0x7fff;
    // A float with the same fraction has an exponent that is 112 too small; the product also
    // normalises subnormal numbers.
    const Real scaled = (Real)(magnitude << 13) * 0x1p112f;
    const Bits special = (Bits)(magnitude >= 0x7c00) & 0x7f800000;
    return (Real)((Bits)scaled | special | ((half & 0x8000) << 16));
  }

  static LITE_FOCUS_INLINE Bits to_half(Real x) {
    const Bits sign = ((Bits)x >> 16) & 0x8000;
    const Bits magnitude = (Bits)x & 0x7fffffff;
    const Bits normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    // Below 2^-14 the unit of a half is 2^-24; adding 0.5 makes it that of the float.
    const Bits subnormal = (Bits)((Real)magnitude + 0.5f) - 0x3f000000;
    Bits result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude >= 0x477ff000 ? Bits{} + 0x7c00 : result;
    return sign | (magnitude > 0x7f800000 ? Bits{} + 0x7e00 : result);
  }

  template <int kStride, typename Function>
  static LITE_FOCUS_INLINE Scalar reduce(Real x, Function combine) {
    if constexpr (kStride < kLanes) {
      const Real partner = swap<kStride>(x, std::make_integer_sequence<int, kLanes>());
      return reduce<2 * kStride>(combine(x, partner), combine);
    } else {
      return x[0];
    }
  }

  template <int kStride, int... kLane>
  static LITE_FOCUS_INLINE Real swap(Real x, std::integer_sequence<int, kLane...>) {
    return permute(x, x, std::integer_sequence<int, (kLane ^ kStride)...>());
  }

  template <int... kIndex>
  static LITE_FOCUS_INLINE Real permute(Real a, Real b, std::integer_sequence<int, kIndex...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, kIndex...);
#else
    return __builtin_shuffle(a, b, Int{kIndex...});
#endif
  }

  template <int... kLane>
  static LITE_FOCUS_INLINE void split_pairs(Real low, Real high, Real& x, Real& y,
                                            std::integer_sequence<int, kLane...>) {
    x = permute(low, high, std::integer_sequence<int, 2 * kLane...>());
    y = permute(low, high, std::integer_sequence<int, 2 * kLane + 1 ...>());
  }

  template <int... kLane>
  static LITE_FOCUS_INLINE void join_pairs(Real x, Real y, Real& low, Real& high,
                                           std::integer_sequence<int, kLane...>) {
    constexpr int kHalf = kLanes / 2;
    low = permute(x, y, std::integer_sequence<int, kLane / 2 + kLane % 2 * kLanes...>());
    high = permute(x, y, std::integer_sequence<int, kLane / 2 + kHalf + kLane % 2 * kLanes...>());
  }

  // Halves the number of rows: lanes with the bit kStride come from the odd rows, the others from
  // the even rows, and each lane gains its partner at distance kStride.
  template <int kStride>
  static LITE_FOCUS_INLINE void fold_rows(Real* rows) {
    if constexpr (kStride < kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes / kStride / 2; ++i) {
        rows[i] = fold_pair<kStride>(rows[2 * i], rows[2 * i + 1],
                                     std::make_integer_sequence<int, kLanes>());
      }
      fold_rows<2 * kStride>(rows);
    }
  }

  template <int kStride, int... kLane>
  static LITE_FOCUS_INLINE Real fold_pair(Real even, Real odd,
                                          std::integer_sequence<int, kLane...>) {
    return permute(even, odd,
                   std::integer_sequence<int, (kLane & kStride ? kLane - kStride + kLanes
                                                               : kLane)...>()) +
           permute(even, odd,
                   std::integer_sequence<int, (kLane & kStride ? kLane + kLanes
                                                               : kLane + kStride)...>());
  }
};

}  // namespace lite_focus
