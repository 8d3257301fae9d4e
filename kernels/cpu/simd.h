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
#if defined(LITE_FOCUS_AVX2)
    if constexpr (kBytes == 32) {
      return (Real)_mm256_cvtph_ps(load_raw<__m128i>(source));
    }
#endif
#if defined(LITE_FOCUS_AVX512)
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
#if defined(LITE_FOCUS_AVX2)
    if constexpr (kBytes == 32) {
      const __m128i result = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(target, &result, sizeof(result));
      return;
    }
#endif
#if defined(LITE_FOCUS_AVX512)
    if constexpr (kBytes == 64) {
      const __m256i result = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(target, &result, sizeof(result));
      return;
    }
#endif
    const Short result = __builtin_convertvector(to_half(x), Short);
    std::memcpy(target, &result, sizeof(result));
  }

  // The first `count` lanes, less than all; the others are zero and their memory is not touched: a
  // masked load also waits for the cache line of what it leaves out.
  template <typename T>
  static LITE_FOCUS_INLINE Real load_first(const T* source, int count) {
#if defined(LITE_FOCUS_AVX512)
    if constexpr (kBytes == 64 && std::is_same_v<T, float>) {
      const uint32_t mask = (1u << count) - 1;
      if (count <= 4) {
        return (Real)_mm512_zextps128_ps512(_mm_maskz_loadu_ps(__mmask8(mask), source));
      } else if (count <= 8) {
        return (Real)_mm512_zextps256_ps512(_mm256_maskz_loadu_ps(__mmask8(mask), source));
      } else if (count <= 12) {
        const __m512 low = _mm512_zextps256_ps512(_mm256_loadu_ps(source));
        const __m128 high = _mm_maskz_loadu_ps(__mmask8(mask >> 8), source + 8);
        return (Real)_mm512_insertf32x4(low, high, 2);
      }
      return (Real)_mm512_maskz_loadu_ps(__mmask16(mask), source);
    }
#endif
#if defined(LITE_FOCUS_AVX2)
    if constexpr (kBytes == 32 && std::is_same_v<T, float>) {
      if (count == 4) {
        return (Real)_mm256_zextps128_ps256(_mm_loadu_ps(source));
      }
      return (Real)_mm256_maskload_ps(source, (__m256i)(lane_numbers() < count));
    }
#endif
    T lanes[kLanes] = {};
    for (int i = 0; i < count; ++i) {
      lanes[i] = source[i];
    }
    return load(lanes);
  }

  // Nothing else is written.
  template <typename T>
  static LITE_FOCUS_INLINE void store_first(T* target, Real x, int count) {
#if defined(LITE_FOCUS_AVX512)
    if constexpr (kBytes == 64 && std::is_same_v<T, float>) {
      const uint32_t mask = (1u << count) - 1;
      const __m256 low = _mm512_castps512_ps256((__m512)x);
      if (count < 8) {
        _mm256_mask_storeu_ps(target, __mmask8(mask), low);
        return;
      }
      _mm256_storeu_ps(target, low);
      if (count > 8) {
        const __m256 high = _mm512_extractf32x8_ps((__m512)x, 1);
        _mm256_mask_storeu_ps(target + 8, __mmask8(mask >> 8), high);
      }
      return;
    }
#endif
#if defined(LITE_FOCUS_AVX2)
    if constexpr (kBytes == 32 && std::is_same_v<T, float>) {
      if (count == 4) {
        _mm_storeu_ps(target, _mm256_castps256_ps128((__m256)x));
      } else {
        _mm256_maskstore_ps(target, (__m256i)(lane_numbers() < count), (__m256)x);
      }
      return;
    }
#endif
    T lanes[kLanes];
    store(lanes, x);
    for (int i = 0; i < count; ++i) {
      target[i] = lanes[i];
    }
  }

  static LITE_FOCUS_INLINE Int lane_numbers() {
    return lane_numbers(std::make_integer_sequence<IntScalar, kLanes>());
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
  // Of a vector of zeros and NaN: whether there is any NaN.
  static LITE_FOCUS_INLINE bool any_nan(Real x) { return !(sum(x) == 0); }
  static LITE_FOCUS_INLINE Scalar maximum(Real x) {
    return reduce<1>(x,
                     [](Real a, Real b) __attribute__((always_inline)) { return a > b ? a : b; });
  }

  // exp(x) for x <= 0 to 2 ulp: a polynomial on [-ln 2 / 2, ln 2 / 2] and a power of two. Written
  // out for double as well, because exp of a new libc is not in an old one.
  static LITE_FOCUS_INLINE Real exp_of_negative(Real x) {
    constexpr bool kDouble = sizeof(Scalar) == 8;
    // Coefficients of Taylor's series, from that of the highest power.
    constexpr int kTerms = kDouble ? 13 : 7;
    constexpr Scalar kInverseFactorials[] = {
        Scalar(1.0 / 6227020800), Scalar(1.0 / 479001600), Scalar(1.0 / 39916800),
        Scalar(1.0 / 3628800),    Scalar(1.0 / 362880),    Scalar(1.0 / 40320),
        Scalar(1.0 / 5040),       Scalar(1.0 / 720),       Scalar(1.0 / 120),
        Scalar(1.0 / 24),         Scalar(1.0 / 6),         Scalar(1.0 / 2)};
    constexpr int kFraction = kDouble ? 52 : 23;
    constexpr int kBias = kDouble ? 1023 : 127;
    // ln 2 in two parts, so that the product with a whole number is exact.
    constexpr Scalar kHigh = kDouble ? Scalar(0x1.62e42fefa38p-1) : Scalar(0.693359375);
    constexpr Scalar kLow = kDouble ? Scalar(0x1.ef35793c7673p-45) : Scalar(-2.12194440e-4);
    // The smallest power of two that is a normal number.
    const Real lowest = broadcast(kDouble ? Scalar(-708) : Scalar(-87));
    x = x < lowest ? lowest : x;
    const Int power = floor(x * Scalar(1.4426950408889634) + Scalar(0.5));
    const Real whole = to_real(power);
    const Real r = x - whole * kHigh - whole * kLow;
    Real series = broadcast(kInverseFactorials[13 - kTerms]);
#pragma GCC unroll 16
    for (int i = 14 - kTerms; i < 12; ++i) {
      series = series * r + kInverseFactorials[i];
    }
    series = series * (r * r) + r + Scalar(1);
    return series * (Real)((power + kBias) << kFraction);
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

  template <IntScalar... kLane>
  static LITE_FOCUS_INLINE Int lane_numbers(std::integer_sequence<IntScalar, kLane...>) {
    return Int{kLane...};
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
