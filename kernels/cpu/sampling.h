// Where the points of one query and head lie, and with which weights: the part that both
// operators share. Points are lanes of vectors here, padded to a multiple of 16.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "problem.h"

namespace lite_focus {

constexpr int kPointBlock = 16;
// Items (query and head) that a kernel takes through each of its steps together: the loads of one
// step then do not wait for the stores of the step before.
constexpr int kSlots = 4;
// In queries.
constexpr int kPrefetchDistance = 8;
// A position outside of every map.
constexpr int kOutside = -2;

constexpr int64_t pad_points(int64_t points) {
  return (points + kPointBlock - 1) / kPointBlock * kPointBlock;
}

// T is how value is stored. kChannels and kPoints (= L * P) are constants, or 0: known at run time
// only. Constant channels are a fast path, which has offsets of 32 bits.
template <typename T_, int kBytes_, int kChannels_, int kPoints_>
struct Traits {
  using T = T_;
  using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Lanes = Simd<Scalar, kBytes_>;
  using Index = std::conditional_t<kChannels_ == 0, int64_t, int32_t>;
  static constexpr int kBytes = kBytes_;
  static constexpr int kChannels = kChannels_;
  static constexpr int kPoints = kPoints_;
};

// Arrays in the scratch memory with one element per point: of the levels,
enum LevelArray : int {
  kWidth,
  kHeight,
  kStart,
  kColumn,  // where the reference of the point is among those of the query
  kLevelArrays,
};

// and of an item.
enum Array : int {
  kOriginX,
  kOriginY,
  kScaleX,
  kScaleY,
  kPixelX,
  kPixelY,
  kAttention,
  kWeight,                // 4 corners
  kOffset = kWeight + 4,  // 4 corners, up to 64 bits each
  kAxisX = kOffset + 8,   // weights, then slopes
  kAxisY = kAxisX + 4,
  kValueDots = kAxisY + 4,  // 4 corners
  kKeyDots = kValueDots + 4,
  kGradAttention = kKeyDots + 4,
  kGradX,
  kGradY,
  kSamples,  // points * channels
};

// Bytes that a kernel needs beside its arguments.
inline constexpr int64_t scratch_bytes(int64_t points, int64_t channels) {
  const int64_t arrays = kLevelArrays + kSlots * (kSamples + channels);
  return pad_points(points) * arrays * int64_t(sizeof(double));
}

// Calls function(first query, number of queries, head) for up to kSlots items at a time.
template <typename Function>
LITE_FOCUS_INLINE void for_slots(const Range& range, Function function) {
  for (int64_t q = range.first_query; q < range.last_query; q += kSlots) {
    const int64_t rest = range.last_query - q;
    for (int m = range.first_head; m < range.last_head; ++m) {
      function(q, rest < kSlots ? int(rest) : kSlots, m);
    }
  }
}

template <typename Traits>
class Sampler {
 public:
  using T = typename Traits::T;
  using Scalar = typename Traits::Scalar;
  using Index = typename Traits::Index;
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using IntScalar = typename Lanes::IntScalar;
  static constexpr int kLanes = Lanes::kLanes;

  LITE_FOCUS_INLINE Sampler(const Problem& problem, void* scratch)
      : problem_(problem),
        count_(problem.levels * problem.points),
        levels_(static_cast<Scalar*>(scratch)) {
    for (int i = 0; i < padded(); ++i) {
      const bool exists = i < count();
      const int l = exists ? i / problem.points : 0;
      level_array(kWidth)[i] = exists ? problem.level[l].width : 1;
      level_array(kHeight)[i] = exists ? problem.level[l].height : 1;
      level_array(kStart)[i] = exists ? problem.level[l].start : 0;
      level_array(kColumn)[i] = l * problem.reference_size;
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      select_slot(slot);
      for (int i = 0; i < padded(); ++i) {
        array(kPixelX)[i] = array(kPixelY)[i] = kOutside;  // where padding stays
        array(kOriginX)[i] = array(kOriginY)[i] = Scalar(-0.5);
        array(kScaleX)[i] = locations() ? Scalar(level_array(kWidth)[i]) : Scalar(1);
        array(kScaleY)[i] = locations() ? Scalar(level_array(kHeight)[i]) : Scalar(1);
      }
    }
  }

  LITE_FOCUS_INLINE int count() const { return Traits::kPoints ? Traits::kPoints : count_; }
  // The next multiple of kLanes.
  LITE_FOCUS_INLINE int padded() const { return (count() + kLanes - 1) / kLanes * kLanes; }
  // Calls function(i, n) for points [i, i + n) with kLanes of them, and then for the rest.
  template <typename Function>
  LITE_FOCUS_INLINE void for_points(Function function) const {
    int i = 0;
    for (; i + kLanes <= count(); i += kLanes) {
      function(i, kLanes);
    }
    if (i < count()) {
      function(i, count() - i);
    }
  }
  LITE_FOCUS_INLINE bool locations() const { return problem_.reference_size == 0; }
  LITE_FOCUS_INLINE IntScalar* level_array(LevelArray name) const {
    return reinterpret_cast<IntScalar*>(levels_ + int64_t(name) * padded());
  }
  // Makes `array` refer to one of the items in progress.
  LITE_FOCUS_INLINE void select_slot(int slot) {
    const int channels = Traits::kChannels ? Traits::kChannels : problem_.channels;
    items_ = levels_ + (kLevelArrays + slot * int64_t(kSamples + channels)) * padded();
  }
  LITE_FOCUS_INLINE Scalar* array(int name) const { return items_ + int64_t(name) * padded(); }
  LITE_FOCUS_INLINE Index* offsets(int corner) const {
    return reinterpret_cast<Index*>(array(kOffset)) + int64_t(corner) * padded();
  }

  // Asks for the memory of an item that will come later: the items of one head have gaps between
  // them that the processor does not foresee.
  LITE_FOCUS_INLINE void prefetch(int64_t query, int head) const {
    const int64_t item = query * problem_.heads + head;
    const int64_t points = item * problem_.point_levels * problem_.points * 2;
    const int64_t weights =
        query * problem_.weights_query_stride + head * problem_.weights_head_stride;
    const int64_t channels = item * problem_.channels;
    const int sampling_size = problem_.sampling_exact ? sizeof(Scalar) : sizeof(T);
    const int weights_size = problem_.weights_exact ? sizeof(Scalar) : sizeof(T);
    const int point_count = 2 * problem_.point_levels * problem_.points;
    prefetch<false>(problem_.sampling, points, point_count, sampling_size);
    prefetch<false>(problem_.weights, weights, count(), weights_size);
    prefetch<false>(problem_.query, channels, problem_.channels, sizeof(T));
    prefetch<false>(problem_.grad_output, channels, problem_.channels, sizeof(T));
    prefetch<true>(problem_.output, channels, problem_.channels, sizeof(T));
    prefetch<true>(problem_.grad_sampling, points, point_count, sampling_size);
    prefetch<true>(problem_.grad_weights, weights, count(), weights_size);
    prefetch<true>(problem_.grad_query, channels, problem_.channels, sizeof(T));
  }

  // A position in pixels is origin + scale * (location or offset).
  LITE_FOCUS_INLINE void load_reference(int64_t query) const {
    const int size = problem_.reference_size;
    if (size == 0) {
      return;
    }
    const int columns = problem_.levels * size;
    const auto* reference = static_cast<const Scalar*>(problem_.reference) + query * columns;
    Scalar table[kMaxLevels * 4];
    for (int i = 0; i < columns; ++i) {
      table[i] = reference[i];
    }
    const bool small = columns <= 2 * kLanes;
    for (int i = 0; i < padded(); i += kLanes) {
      const Int column = Lanes::load_int(level_array(kColumn) + i);
      const Real width = Lanes::to_real(Lanes::load_int(level_array(kWidth) + i));
      const Real height = Lanes::to_real(Lanes::load_int(level_array(kHeight) + i));
      Lanes::store(array(kOriginX) + i, Lanes::lookup(table, column, small) * width - Scalar(0.5));
      Lanes::store(array(kOriginY) + i,
                   Lanes::lookup(table, column + 1, small) * height - Scalar(0.5));
      if (size == 4) {
        const Scalar unit = Scalar(0.5) / Scalar(problem_.points);
        Lanes::store(array(kScaleX) + i, Lanes::lookup(table, column + 2, small) * (width * unit));
        Lanes::store(array(kScaleY) + i, Lanes::lookup(table, column + 3, small) * (height * unit));
      }
    }
  }

  // Positions in pixels of the points of an item.
  LITE_FOCUS_INLINE void load_points(int64_t query, int head) const {
    prefetch(query + kPrefetchDistance, head);
    load_reference(query);
    const int64_t item = query * problem_.heads + head;
    if (problem_.sampling_exact) {
      load_positions(static_cast<const Scalar*>(problem_.sampling), item);
    } else {
      load_positions(static_cast<const T*>(problem_.sampling), item);
    }
    gather_outside();
  }

  // The weights given, or the softmax of the logits.
  LITE_FOCUS_INLINE void load_attention(int64_t query, int head) const {
    const int64_t first =
        query * problem_.weights_query_stride + head * problem_.weights_head_stride;
    if (problem_.weights_exact) {
      load_lanes(static_cast<const Scalar*>(problem_.weights) + first);
    } else {
      load_lanes(static_cast<const T*>(problem_.weights) + first);
    }
    if (problem_.weights_are_logits) {
      softmax();
    }
  }

  // The logits of points that are masked out.
  LITE_FOCUS_INLINE void mask_logits() const {
    if (!problem_.mask_outside) {
      return;
    }
    for (int i = 0; i < padded(); i += kLanes) {
      const Real x = Lanes::load(array(kPixelX) + i);
      const Real logits = Lanes::load(array(kAttention) + i);
      Lanes::store(array(kAttention) + i, x > Real{} - 1 ? logits : Real{} + kMaskedLogit);
    }
  }

  // Of kAttention, in place.
  LITE_FOCUS_INLINE void softmax() const {
    Scalar* attention = array(kAttention);
    Real highest = Lanes::load(attention);
    for (int i = kLanes; i < padded(); i += kLanes) {
      const Real other = Lanes::load(attention + i);
      highest = highest > other ? highest : other;
    }
    const Scalar maximum = Lanes::maximum(highest);
    Real total{};
    for (int i = 0; i < padded(); i += kLanes) {
      const Real e = Lanes::exp_of_negative(Lanes::load(attention + i) - maximum);
      Lanes::store(attention + i, e);
      total += e;
    }
    const Scalar normaliser = 1 / Lanes::sum(total);
    for (int i = 0; i < padded(); i += kLanes) {
      Lanes::store(attention + i, Lanes::load(attention + i) * normaliser);
    }
  }

  // Corner weights and offsets into a head of value; with kGradient also what differentiates them,
  // else the weights include the factors, if there are any.
  template <bool kGradient>
  LITE_FOCUS_INLINE void locate(const Scalar* factors) const {
    for (int i = 0; i < padded(); i += kLanes) {
      const Int width = Lanes::load_int(level_array(kWidth) + i);
      const Int height = Lanes::load_int(level_array(kHeight) + i);
      const auto x = interpolate<Lanes>(Lanes::load(array(kPixelX) + i), width);
      const auto y = interpolate<Lanes>(Lanes::load(array(kPixelY) + i), height);
      const Int start = Lanes::load_int(level_array(kStart) + i);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        Real weight = y.weight[c / 2] * x.weight[c % 2];
        if (factors != nullptr) {
          weight *= Lanes::load(factors + i);
        }
        Lanes::store(array(kWeight + c) + i, weight);
        store_offsets(offsets(c) + i, start + y.index[c / 2] * width + x.index[c % 2]);
        if constexpr (kGradient) {
          Lanes::store(array(kAxisX + c) + i, c < 2 ? x.weight[c % 2] : x.slope[c % 2]);
          Lanes::store(array(kAxisY + c) + i, c < 2 ? y.weight[c % 2] : y.slope[c % 2]);
        }
      }
    }
  }

  LITE_FOCUS_INLINE void load_corners(int name, int first, Real corners[4]) const {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      corners[c] = Lanes::load(array(name + c) + first);
    }
  }

  // Zero in place of what is known of the corners outside of their maps; so are all of padding.
  LITE_FOCUS_INLINE void clear_outside(int name) const { clear(*this, name); }

  // Whether a corner of a point is outside of the map. A position that is not a number has no such
  // corner: it shall show in the result.
  LITE_FOCUS_INLINE bool is_outside(int corner, int p) const {
    const Scalar x = array(kPixelX)[p];
    const Scalar y = array(kPixelY)[p];
    const bool number = x == x && y == y;
    return number && (is_outside(x, corner % 2, level_array(kWidth)[p]) ||
                      is_outside(y, corner / 2, level_array(kHeight)[p]));
  }

  LITE_FOCUS_INLINE void scale_attention(Scalar scale) const {
    for (int i = 0; i < padded(); i += kLanes) {
      Lanes::store(array(kAttention) + i, Lanes::load(array(kAttention) + i) * scale);
    }
  }

  // target[c] = kWeight[c] * factors for the four corners. Where a factor is not finite, those
  // outside of the map have to be cleared.
  LITE_FOCUS_INLINE void scale_corners(int factors, int target) const {
    for (int i = 0; i < padded(); i += kLanes) {
      const Real factor = Lanes::load(array(factors) + i);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        Lanes::store(array(target + c) + i, Lanes::load(array(kWeight + c) + i) * factor);
      }
    }
  }

  LITE_FOCUS_INLINE bool is_finite(int name) const {
    Real doubt{};
    for (int i = 0; i < padded(); i += kLanes) {
      const Real x = Lanes::load(array(name) + i);
      doubt += x - x;
    }
    return !Lanes::any_nan(doubt);
  }

  // Value and gradient at the points of the quantity that is `dots` at the corners.
  LITE_FOCUS_INLINE Real interpolate_dots(const Real dots[4], int first) const {
    Real weights[4];
    load_corners(kWeight, first, weights);
    return (weights[0] * dots[0] + weights[1] * dots[1]) +
           (weights[2] * dots[2] + weights[3] * dots[3]);
  }
  LITE_FOCUS_INLINE Gradient<Lanes> differentiate_dots(const Real dots[4], int first) const {
    return differentiate<Lanes>(load_axis(kAxisX, first), load_axis(kAxisY, first), dots);
  }

  // Up to kLanes numbers, also none; the other lanes are zero.
  template <typename U>
  static LITE_FOCUS_INLINE Real load_first(const U* source, int n) {
    return n >= kLanes ? Lanes::load(source) : n <= 0 ? Real{} : Lanes::load_first(source, n);
  }

 private:
  // Of a copy, so that the compiler keeps the object of the fast path in registers.
  static __attribute__((noinline, cold)) void clear(Sampler sampler, int name) {
    for (int c = 0; c < 4; ++c) {
      for (int p = 0; p < sampler.padded(); ++p) {
        if (sampler.is_outside(c, p)) {
          sampler.array(name + c)[p] = 0;
        }
      }
    }
  }

  static LITE_FOCUS_INLINE bool is_outside(Scalar position, int side, IntScalar size) {
    if (!(position > -1 && position < Scalar(size))) {
      return true;
    }
    const IntScalar truncated = IntScalar(position);
    const IntScalar index = truncated - (Scalar(truncated) > position) + side;
    return index < 0 || index >= size;
  }

  // Points to be masked out go to one place, where both coordinates tell that they are outside; so
  // do those that are not a number, which must not reach any sum.
  LITE_FOCUS_INLINE void gather_outside() const {
    if (!problem_.mask_outside) {
      return;
    }
    for (int i = 0; i < padded(); i += kLanes) {
      const Real x = Lanes::load(array(kPixelX) + i);
      const Real y = Lanes::load(array(kPixelY) + i);
      const Real width = Lanes::to_real(Lanes::load_int(level_array(kWidth) + i));
      const Real height = Lanes::to_real(Lanes::load_int(level_array(kHeight) + i));
      const Real zero{};
      const auto inside = (x > zero - 1) & (x < width) & (y > zero - 1) & (y < height);
      Lanes::store(array(kPixelX) + i, inside ? x : zero + kOutside);
      Lanes::store(array(kPixelY) + i, inside ? y : zero + kOutside);
    }
  }

  template <typename U>
  LITE_FOCUS_INLINE void load_positions(const U* source, int64_t item) const {
    const int levels = problem_.point_levels;
    source += item * levels * problem_.points * 2;
    if (levels == problem_.levels) {
      for_points([&](int i, int n) __attribute__((always_inline)) {
        Real x, y;
        Lanes::split_pairs(load_first(source + 2 * i, 2 * n),
                           load_first(source + 2 * i + kLanes, 2 * n - kLanes), x, y);
        x = x * Lanes::load(array(kScaleX) + i) + Lanes::load(array(kOriginX) + i);
        y = y * Lanes::load(array(kScaleY) + i) + Lanes::load(array(kOriginY) + i);
        Lanes::store(array(kPixelX) + i, fill_rest(x, n, kOutside));
        Lanes::store(array(kPixelY) + i, fill_rest(y, n, kOutside));
      });
      return;
    }
    for (int l = 0, i = 0; l < problem_.levels; ++l) {
      const U* pair = source + (levels == 1 ? 0 : 2 * i);
      for (int p = 0; p < problem_.points; ++p, ++i, pair += 2) {
        array(kPixelX)[i] = Lanes::to_scalar(pair[0]) * array(kScaleX)[i] + array(kOriginX)[i];
        array(kPixelY)[i] = Lanes::to_scalar(pair[1]) * array(kScaleY)[i] + array(kOriginY)[i];
      }
    }
  }

  // Padding is 0, or the logit of a zero weight.
  template <typename U>
  LITE_FOCUS_INLINE void load_lanes(const U* source) const {
    const Scalar padding = problem_.weights_are_logits ? -Scalar(__builtin_inf()) : Scalar(0);
    for_points([&](int i, int n) __attribute__((always_inline)) {
      Lanes::store(array(kAttention) + i, fill_rest(load_first(source + i, n), n, padding));
    });
  }

  // x in the first n lanes.
  static LITE_FOCUS_INLINE Real fill_rest(Real x, int n, Scalar rest) {
    return n == kLanes ? x : Lanes::lane_numbers() < n ? x : Lanes::broadcast(rest);
  }

  template <bool kWrite>
  static LITE_FOCUS_INLINE void prefetch(const void* base, int64_t first, int count, int size) {
    if (base == nullptr) {
      return;
    }
    constexpr int kLine = 64;
    const char* line = static_cast<const char*>(base) + first * size;
    for (int i = 0; i < count * size; i += kLine) {
      __builtin_prefetch(line + i, kWrite);
    }
    // Items of 16 points begin with a line, others may end in one more.
    if (Traits::kPoints == 0) {
      __builtin_prefetch(line + count * size - 1, kWrite);
    }
  }

  LITE_FOCUS_INLINE void store_offsets(int32_t* target, Int token) const {
    const Int offset = token * IntScalar(problem_.token_stride);
    std::memcpy(target, &offset, sizeof(offset));
  }
  LITE_FOCUS_INLINE void store_offsets(int64_t* target, Int token) const {
    for (int i = 0; i < kLanes; ++i) {
      target[i] = token[i] * problem_.token_stride;
    }
  }

  LITE_FOCUS_INLINE Axis<Lanes> load_axis(int name, int first) const {
    Axis<Lanes> axis;
#pragma GCC unroll 2
    for (int side = 0; side < 2; ++side) {
      axis.weight[side] = Lanes::load(array(name + side) + first);
      axis.slope[side] = Lanes::load(array(name + 2 + side) + first);
    }
    return axis;
  }

  const Problem& problem_;
  const int count_;
  Scalar* levels_;
  Scalar* items_;
};

}  // namespace lite_focus
