// The kernels: output = sum_p attention_p * value(x_p), where attention is given, or the softmax of
// scale * query . key(x_p) over the points; and the gradients. With mask_outside the softmax is
// over the points inside of their maps.
#pragma once

#include "cuda/fixed_sums.cuh"
#include "cuda/tile.cuh"

namespace lite_focus {
namespace {

// Where attention comes from. kValue: the key is the value.
enum class Scores { kGiven, kValue, kKey };

// Blocks per multiprocessor that the registers of a kernel must allow; 0 leaves them to the
// compiler. A thread needs more of them where the number of points is not exact.
template <typename Traits, Scores kScores>
constexpr int kForwardBlocks =
    Traits::kFast && !Traits::kExact && kScores != Scores::kGiven ? 1024 / Traits::kForwardThreads
                                                                  : 0;
template <typename Traits, Scores kScores>
constexpr int kResidentThreads =
    Traits::kExact && kScores == Scores::kGiven                     ? 1024
    : Traits::kExact || !Traits::kFast || kScores == Scores::kGiven ? 768
                                                                    : 512;
template <typename Traits, Scores kScores>
constexpr int kBackwardBlocks = kResidentThreads<Traits, kScores> / Traits::kBackwardThreads;

// What becomes of the terms of the gradients of value and key.
enum class Terms : int {
  kIgnored,
  kAdded,     // in any order
  kMeasured,  // see fixed_sums.cuh
  kAddedFixed,
};

// The rows of an item in the tensors, from its lane's channels on.
template <typename Traits, Scores kScores>
struct Rows {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  static constexpr int kVector = Traits::kVector;

  const Item<Traits>& item;

  __device__ __forceinline__ const T* value(int channel) const {
    return static_cast<const T*>(item.problem.value) + item.map_offset() + channel;
  }
  __device__ __forceinline__ const T* key(int channel) const {
    return kScores == Scores::kKey
               ? static_cast<const T*>(item.problem.key) + item.map_offset() + channel
               : value(channel);
  }
  __device__ __forceinline__ void load_query(int channel, Real (&query)[kVector]) const {
    load(static_cast<const T*>(item.problem.query) + item.channel_offset() + channel, query);
  }
  // Its product with a key is a logit.
  __device__ __forceinline__ void load_scaled_query(int channel, Real (&query)[kVector]) const {
    load_query(channel, query);
    const Real scale = static_cast<Real>(item.problem.scale);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      query[i] *= scale;
    }
  }
  __device__ __forceinline__ void load_grad_output(int channel, Real (&gradient)[kVector]) const {
    load(static_cast<const T*>(item.problem.grad_output) + item.channel_offset() + channel,
         gradient);
  }
};

// What a block works on: a warp of an item each or, in a fast path, a group each.
template <typename Traits>
struct Work {
  const Problem& problem;
  const QueryGrid& grid;

  // Calls function(item) with the item of this thread's group, unless its whole warp has none.
  template <typename Function>
  __device__ __forceinline__ void run(Function function) const {
    if constexpr (Traits::kFast) {
      const Tile tile(problem, grid);
      const unsigned place = threadIdx.x / Traits::kLanes;
      // The first group of a warp has a query if any of them has.
      if (tile.has_query(place - place % (32 / Traits::kLanes))) {
        function(tile.item_at<Traits>(place));
      }
    } else {
      const int64_t index =
          int64_t{blockIdx.x} * (blockDim.x / Traits::kLanes) + threadIdx.x / Traits::kLanes;
      const int64_t row = index / problem.heads;
      const int64_t image = row / problem.queries;
      if (image < problem.batch) {
        function(Item<Traits>(problem, image, row - image * problem.queries,
                              static_cast<int>(index - row * problem.heads), true));
      }
    }
  }
};

template <typename Traits>
__device__ __forceinline__ void load_attention(const Item<Traits>& item,
                                               OwnNumbers<Traits>& attention) {
  item.for_points([&](int p, int i) { attention(p, i) = item.weight_of(p); });
  if (item.problem.weights_are_logits) {
    item.softmax(attention);
  }
}

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
    if (point.corner[c].offset >= 0) {
      load(head + point.corner[c].offset, pixel);
    }
#pragma unroll
    for (int i = 0; i < Traits::kVector; ++i) {
      sample[i] += point.corner[c].weight * pixel[i];
    }
  }
}

// The axes of a point for a softmax over the samples of the key. A point that is masked out has no
// weight on either of them, also where it is not a number.
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
                                               OwnNumbers<Traits>& logits) {
  if (item.problem.mask_outside) {
    item.for_points([&](int p, int i) {
      const auto& corner = points[p].corner;
      if (corner[0].weight + corner[1].weight + corner[2].weight + corner[3].weight == 0) {
        logits(p, i) = kMaskedLogit;
      }
    });
  }
  item.softmax(logits);
}

// Bytes per point that a group of a forward kernel keeps.
template <typename Traits, Scores kScores>
constexpr size_t kForwardBytes =
    sizeof(Point<Traits>) +
    (Traits::kFast && kScores == Scores::kGiven ? 0 : sizeof(typename Traits::Real));

template <typename Traits>
__device__ __forceinline__ void attend_with_given_scores(const Item<Traits>& item, char* memory) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  auto* points = take_array<Point<Traits>>(memory, item.count());
  OwnNumbers<Traits> attention(reinterpret_cast<Real*>(memory));
  load_attention(item, attention);
  item.for_points([&](int p, int i) { points[p] = item.locate(p, item.axes(p), attention(p, i)); });
  __syncwarp();

  item.for_channels([&](int channel) {
    const T* head = Rows<Traits, Scores::kGiven>{item}.value(channel);
    make_global(head);
    Real sum[kVector] = {};
#pragma unroll 4
    for (int p = 0; p < item.count(); ++p) {
      const Point<Traits> point = points[p];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (point.corner[c].offset >= 0) {
          Real pixel[kVector];
          load(head + point.corner[c].offset, pixel);
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            sum[i] += point.corner[c].weight * pixel[i];
          }
        }
      }
    }
    if (item.exists) {
      store(static_cast<T*>(item.problem.output) + item.channel_offset() + channel, sum);
    }
  });
}

// Key and value are each read once where the number of points is exact: samples of a shared key
// stay in registers then. Else a shared key is read twice.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void attend_with_keys(const Item<Traits>& item, char* memory) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  constexpr bool kKeep = kScores == Scores::kValue && Traits::kExact;
  const int count = item.count();
  const Rows<Traits, kScores> rows{item};
  auto* points = take_array<Point<Traits>>(memory, count);
  auto* attention = take_array<Real>(memory, count);
  item.for_points([&](int p, int) { points[p] = item.locate(p, key_axes(item, p), Real(1)); });
  __syncwarp();

  Real kept[kKeep ? Traits::kPoints : 1][kVector];
  if constexpr (Traits::kFast) {
    const int channel = item.lane * kVector;
    const T* key = rows.key(channel);
    make_global(key);
    Real query[kVector];
    rows.load_scaled_query(channel, query);
    constexpr int kAtOnce = Traits::kExact ? Traits::kPoints : kSummedPoints;
#pragma unroll 1
    for (int first = 0; first < count; first += kAtOnce) {
      Real logits[kAtOnce];
#pragma unroll
      for (int p = 0; p < kAtOnce; ++p) {
        logits[p] = 0;
        if (!Traits::kExact && first + p >= count) {
          continue;
        }
        Real sample[kVector];
        interpolate_at<Traits>(key, points[first + p], sample);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          logits[p] += query[i] * sample[i];
          if constexpr (kKeep) {
            kept[p][i] = sample[i];
          }
        }
      }
      group_sums<kAtOnce, Traits::kLanes>(logits, attention + first, item.lane);
    }
  } else {
    for (int p = 0; p < count; ++p) {
      Real logit[1] = {};
      item.for_channels([&](int channel) {
        Real query[kVector];
        Real sample[kVector];
        rows.load_scaled_query(channel, query);
        interpolate_at<Traits>(rows.key(channel), points[p], sample);
        logit[0] += query[0] * sample[0];
      });
      group_sums<1, Traits::kLanes>(logit, attention + p, item.lane);
    }
  }
  __syncwarp();
  OwnNumbers<Traits> own(attention);
  item.for_points([&](int p, int i) { own(p, i) = attention[p]; });
  masked_softmax(item, points, own);
  item.for_points([&](int p, int i) { attention[p] = own(p, i); });
  __syncwarp();

  item.for_channels([&](int channel) {
    const T* value = rows.value(channel);
    make_global(value);
    Real sum[kVector] = {};
#pragma unroll(Traits::kExact ? Traits::kPoints : 1)
    for (int p = 0; p < count; ++p) {
      Real sample[kVector];
      if constexpr (!kKeep) {
        interpolate_at<Traits>(value, points[p], sample);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum[i] += attention[p] * (kKeep ? kept[kKeep ? p : 0][i] : sample[i]);
      }
    }
    if (item.exists) {
      store(static_cast<T*>(item.problem.output) + item.channel_offset() + channel, sum);
    }
  });
}

template <typename Traits, Scores kScores>
__global__ void __launch_bounds__(Traits::kForwardThreads, kForwardBlocks<Traits, kScores>)
    deform_attn_kernel(const __grid_constant__ Problem problem,
                       const __grid_constant__ QueryGrid grid) {
  extern __shared__ __align__(64) char memory[];
  Work<Traits>{problem, grid}.run([&](const Item<Traits>& item) {
    char* own = memory + threadIdx.x / Traits::kLanes *
                             bytes_of_group(kForwardBytes<Traits, kScores>, item.count());
    if constexpr (kScores == Scores::kGiven) {
      attend_with_given_scores(item, own);
    } else {
      attend_with_keys<Traits, kScores>(item, own);
    }
  });
}

// Of attention and of the key at a point: with a corner's weight and the gradient of the output or
// the query they are what is added to the gradients of value and key. Given attention is in the
// weights of the corners already.
template <typename Real, Scores kScores>
struct Factors {
  Real value;
  Real key;
};
template <typename Real>
struct Factors<Real, Scores::kGiven> {};

// What a group keeps of its points until the gradients of value and key are summed.
template <typename Traits, Scores kScores>
struct Kept {
  using PointFactors = Factors<typename Traits::Real, kScores>;
  static constexpr size_t kBytes =
      sizeof(Point<Traits>) + (kScores == Scores::kGiven ? 0 : sizeof(PointFactors));  // of a point
  // Of a group; some bytes at the end are free.
  static LITE_FOCUS_INLINE constexpr size_t stride(int count) {
    return bytes_of_group(kBytes, count);
  }
  static_assert(kBytes * kSummedPoints % 32 == 0);  // one more 16 bytes makes their number odd

  Point<Traits>* points;
  PointFactors* factors;

  __device__ __forceinline__ Kept(char* memory, int count)
      : points(take_array<Point<Traits>>(memory, count)),
        factors(reinterpret_cast<PointFactors*>(memory)) {}
};

// What a group keeps of its points while it computes the other gradients of an item.
template <typename Traits, Scores kScores>
struct Scratch {
  using Real = typename Traits::Real;
  static constexpr int kDots = kScores == Scores::kGiven ? 4 : 8;
  using Dots = Packet<Real, kDots>;
  using Pair = Packet<Real, 2>;
  static constexpr int kOwn = Traits::kFast ? 0 : 2;  // arrays of OwnNumbers
  static constexpr size_t kBytes = sizeof(Dots) + sizeof(Pair) + kOwn * sizeof(Real);  // of a point
  static_assert(kBytes * kSummedPoints % 16 == 0);

  Dots* dots;  // of the gradient with the corners of the value, of the query with those of the key
  Pair* positions;  // gradients
  OwnNumbers<Traits> attention;
  OwnNumbers<Traits> grad_attention;

  __device__ __forceinline__ Scratch(char* memory, int count)
      : dots(take_array<Dots>(memory, count)),
        positions(take_array<Pair>(memory, count)),
        attention(reinterpret_cast<Real*>(memory)),
        grad_attention(reinterpret_cast<Real*>(memory) + count) {}
};

// Products of the gradient of the output with the corners of a point in the value and of the query
// with those in the key, over the channels of this lane.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void corner_dots(
    const Item<Traits>& item, const Point<Traits>& point, const typename Traits::T* value,
    const typename Traits::T* key, const typename Traits::Real (&gradient)[Traits::kVector],
    const typename Traits::Real (&query)[Traits::kVector],
    typename Traits::Real (&dots)[Scratch<Traits, kScores>::kDots]) {
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const auto offset = item.offset_of(point.corner[c]);
    if (offset < 0) {
      continue;
    }
    Real pixel[kVector];
    load(value + offset, pixel);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      dots[c] += gradient[i] * pixel[i];
    }
    if constexpr (kScores != Scores::kGiven) {
      if constexpr (kScores == Scores::kKey) {
        load(key + offset, pixel);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        dots[4 + c] += query[i] * pixel[i];
      }
    }
  }
}

template <typename Traits, Scores kScores>
__device__ __forceinline__ void all_corner_dots(const Item<Traits>& item,
                                                const Point<Traits>* points,
                                                Scratch<Traits, kScores>& scratch) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  constexpr int kDots = Scratch<Traits, kScores>::kDots;
  const Rows<Traits, kScores> rows{item};
  Real gradient[kVector];
  Real query[kVector] = {};
  const auto load_rows = [&](int channel) {
    rows.load_grad_output(channel, gradient);
    if constexpr (kScores != Scores::kGiven) {
      rows.load_scaled_query(channel, query);
    }
  };
  if constexpr (Traits::kFast) {
    const int channel = item.lane * kVector;
    load_rows(channel);
    const T* value = rows.value(channel);
    const T* key = rows.key(channel);
    make_global(value);
    make_global(key);
#pragma unroll 2
    for (int p = 0; p < item.count(); ++p) {
      Real dots[kDots] = {};
      corner_dots<Traits, kScores>(item, points[p], value, key, gradient, query, dots);
      group_sums<kDots, Traits::kLanes>(dots, scratch.dots[p].item, item.lane);
    }
  } else {
    for (int p = 0; p < item.count(); ++p) {
      Real dots[kDots] = {};
      item.for_channels([&](int channel) {
        load_rows(channel);
        corner_dots<Traits, kScores>(item, points[p], rows.value(channel), rows.key(channel),
                                     gradient, query, dots);
      });
      group_sums<kDots, Traits::kLanes>(dots, scratch.dots[p].item, item.lane);
    }
  }
}

// All gradients of an item but those of value, key and query.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void differentiate_points(const Item<Traits>& item,
                                                     const Kept<Traits, kScores>& kept,
                                                     Scratch<Traits, kScores>& scratch) {
  using Real = typename Traits::Real;
  constexpr bool kGiven = kScores == Scores::kGiven;
  const Problem& problem = item.problem;
  const auto axes_of = [&](int p) { return kGiven ? item.axes(p) : key_axes(item, p); };
  const auto points = kept.points;
  const auto dots = scratch.dots;
  auto& attention = scratch.attention;
  auto& grad_attention = scratch.grad_attention;
  if constexpr (kGiven) {
    load_attention(item, attention);
  }
  item.for_points([&](int p, int) { points[p] = item.locate(p, axes_of(p), Real(1)); });
  __syncwarp();
  all_corner_dots<Traits, kScores>(item, points, scratch);
  __syncwarp();

  item.for_points([&](int p, int i) {
    Real sums[2] = {};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      sums[0] += points[p].corner[c].weight * dots[p].item[c];
      sums[1] += kGiven ? 0 : points[p].corner[c].weight * dots[p].item[kGiven ? 0 : 4 + c];
    }
    grad_attention(p, i) = sums[0];
    if constexpr (!kGiven) {
      attention(p, i) = sums[1];
    }
  });
  if constexpr (!kGiven) {
    masked_softmax(item, points, attention);
  }
  const bool has_logits = !kGiven || problem.weights_are_logits;
  Real mean = 0;
  item.for_points([&](int p, int i) { mean += attention(p, i) * grad_attention(p, i); });
  mean = has_logits ? group_sum<Traits::kLanes>(mean) : Real(0);
  item.for_points([&](int p, int i) {
    const Real a = attention(p, i);
    const Real grad_logit = (has_logits ? a : Real(1)) * (grad_attention(p, i) - mean);
    Real corners[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      corners[c] = a * dots[p].item[c];
      if constexpr (!kGiven) {
        corners[c] += grad_logit * dots[p].item[4 + c];
      }
    }
    if constexpr (kGiven) {
      if (item.exists) {
        item.write(problem.grad_weights, problem.weights_exact, item.index * item.count() + p,
                   grad_logit);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        points[p].corner[c].weight *= a;
      }
    } else {
      kept.factors[p] = {a, grad_logit * static_cast<Real>(problem.scale)};
    }
    const auto axes = axes_of(p);
    const auto gradient = differentiate<Scalars<Real>>(axes.x, axes.y, corners);
    scratch.positions[p] = {gradient.x, gradient.y};
    item.store_position_gradient(p, gradient.x, gradient.y);
  });
  __syncwarp();
  item.store_summed_gradients(scratch.positions);
}

// One term of each sum: what a corner of an item adds to the gradients of value and key.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void make_terms(typename Traits::Real weight,
                                           const Factors<typename Traits::Real, kScores>& factors,
                                           const typename Traits::Real (&gradient)[Traits::kVector],
                                           const typename Traits::Real (&query)[Traits::kVector],
                                           typename Traits::Real (&value)[Traits::kVector],
                                           typename Traits::Real (&key)[Traits::kVector]) {
#pragma unroll
  for (int i = 0; i < Traits::kVector; ++i) {
    if constexpr (kScores == Scores::kGiven) {
      value[i] = weight * gradient[i];
    } else {
      value[i] = factors.value * weight * gradient[i];
      key[i] = factors.key * weight * query[i];
    }
    if constexpr (kScores == Scores::kValue) {
      value[i] += key[i];
    }
  }
}

// The gradient of the query, and outside of tiles the terms of those of value and key.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void sum_terms(const Item<Traits>& item,
                                          const Kept<Traits, kScores>& kept, bool adds) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  constexpr bool kGiven = kScores == Scores::kGiven;
  const Problem& problem = item.problem;
  const Rows<Traits, kScores> rows{item};
  item.for_channels([&](int channel) {
    const int64_t first = item.map_offset() + channel;
    const T* key_map = rows.key(channel);
    Real* grad_value = static_cast<Real*>(problem.grad_value) + first;
    Real* grad_key = static_cast<Real*>(problem.grad_key) + first;
    make_global(key_map);
    Real gradient[kVector];
    Real query[kVector] = {};
    Real grad_query[kVector] = {};
    rows.load_grad_output(channel, gradient);
    if constexpr (!kGiven) {
      rows.load_query(channel, query);
    }
#pragma unroll 2
    for (int p = 0; p < item.count(); ++p) {
      const Point<Traits> point = kept.points[p];
      Factors<Real, kScores> factors;
      if constexpr (!kGiven) {
        factors = kept.factors[p];
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const auto offset = item.offset_of(point.corner[c]);
        const Real weight = point.corner[c].weight;
        if (offset < 0) {
          continue;
        }
        if constexpr (!kGiven) {
          Real pixel[kVector];
          load(key_map + offset, pixel);
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            grad_query[i] += factors.key * weight * pixel[i];
          }
        }
        // No traffic where it changes nothing.
        if (!Traits::kTiled && adds && weight != 0) {
          Real value[kVector];
          Real key[kVector];
          make_terms<Traits, kScores>(weight, factors, gradient, query, value, key);
          add_atomically(grad_value + offset, value);
          if constexpr (kScores == Scores::kKey) {
            add_atomically(grad_key + offset, key);
          }
        }
      }
    }
    if constexpr (!kGiven) {
      if (item.exists) {
        store(static_cast<T*>(problem.grad_query) + item.channel_offset() + channel, grad_query);
      }
    }
  });
}

// The terms of the gradients of value and key, for sums in any order of the items.
template <typename Traits, Scores kScores>
__device__ __forceinline__ void sum_terms_fixed(const Item<Traits>& item,
                                                const Kept<Traits, kScores>& kept, bool measured,
                                                int term_bits) {
  using Real = typename Traits::Real;
  constexpr int kVector = Traits::kVector;
  const Problem& problem = item.problem;
  const Rows<Traits, kScores> rows{item};
  const auto sum = [&](const FixedSums& sums, double scale, int64_t i, const Real(&term)[kVector]) {
    if (measured) {
      measure_terms(static_cast<Real*>(sums.result) + i, term, sums.largest);
    } else {
      add_fixed(sums.integers + i, term, scale);
    }
  };
  const FixedSums values = value_sums(problem);
  const FixedSums keys = key_sums(problem);
  const auto scale_of = [&](const FixedSums& sums) {
    return measured ? 0.0 : fixed_scale(*sums.largest, term_bits);
  };
  const double value_scale = scale_of(values);
  const double key_scale = kScores == Scores::kKey ? scale_of(keys) : 0.0;
  item.for_channels([&](int channel) {
    Real gradient[kVector];
    Real query[kVector] = {};
    rows.load_grad_output(channel, gradient);
    if constexpr (kScores != Scores::kGiven) {
      rows.load_query(channel, query);
    }
#pragma unroll 1
    for (int i = 0; i < 4 * item.count(); ++i) {
      const Corner<Traits> corner = kept.points[i / 4].corner[i % 4];
      if (corner.offset < 0 || corner.weight == 0) {
        continue;
      }
      Factors<Real, kScores> factors;
      if constexpr (kScores != Scores::kGiven) {
        factors = kept.factors[i / 4];
      }
      Real value[kVector];
      Real key[kVector];
      make_terms<Traits, kScores>(corner.weight, factors, gradient, query, value, key);
      const int64_t offset = item.map_offset() + channel + corner.offset;
      sum(values, value_scale, offset, value);
      if constexpr (kScores == Scores::kKey) {
        sum(keys, key_scale, offset, key);
      }
    }
  });
}

template <typename Traits, Scores kScores>
__global__ void __launch_bounds__(Traits::kBackwardThreads, kBackwardBlocks<Traits, kScores>)
    deform_attn_backward_kernel(const __grid_constant__ Problem problem,
                                const __grid_constant__ QueryGrid grid, Terms terms,
                                int term_bits) {
  using Memory = Kept<Traits, kScores>;
  extern __shared__ __align__(64) char memory[];
  Work<Traits>{problem, grid}.run([&](const Item<Traits>& item) {
    const int count = item.count();
    const size_t bytes = bytes_of_group(Memory::kBytes + Scratch<Traits, kScores>::kBytes, count);
    char* own = memory + threadIdx.x / Traits::kLanes * bytes;
    const Memory kept(own, count);
    Scratch<Traits, kScores> scratch(own + (Memory::kBytes * count + 15) / 16 * 16, count);
    differentiate_points<Traits, kScores>(item, kept, scratch);
    if (kScores != Scores::kGiven || terms == Terms::kAdded) {
      sum_terms<Traits, kScores>(item, kept, item.exists && terms == Terms::kAdded);
    }
    if (item.exists && (terms == Terms::kMeasured || terms == Terms::kAddedFixed)) {
      sum_terms_fixed<Traits, kScores>(item, kept, terms == Terms::kMeasured, term_bits);
    }
  });
}

template <typename Traits, Scores kScores>
__global__ void __launch_bounds__(Traits::kBackwardThreads, kBackwardBlocks<Traits, kScores>)
    deform_attn_backward_tile_kernel(const __grid_constant__ Problem problem,
                                     const __grid_constant__ QueryGrid grid) {
  using T = typename Traits::T;
  using Real = typename Traits::Real;
  using Memory = Kept<Traits, kScores>;
  constexpr int kVector = Traits::kVector;
  constexpr int kGroups = Traits::kBackwardThreads / Traits::kLanes;
  constexpr bool kGiven = kScores == Scores::kGiven;
  extern __shared__ __align__(64) char memory[];
  using Lists = CornerLists<Traits::kPoints>;
  const unsigned group = threadIdx.x / Traits::kLanes;
  const int count = Traits::kExact ? Traits::kPoints : problem.levels * problem.points;
  const unsigned stride = static_cast<unsigned>(Memory::stride(count));
  char* const rest = memory + stride * kTileQueries;
  const Tile tile(problem, grid);
  {
    Scratch<Traits, kScores> scratch(
        rest + group * bytes_of_group(Scratch<Traits, kScores>::kBytes, count), count);
// The next item of a group meets a barrier before it writes to the scratch.
#pragma unroll 1
    for (unsigned place = group; place < kTileQueries; place += kGroups) {
      const auto item = tile.item_at<Traits>(place);
      const Memory kept(memory + stride * place, count);
      differentiate_points<Traits, kScores>(item, kept, scratch);
      if constexpr (!kGiven) {
        sum_terms<Traits, kScores>(item, kept, false);
      }
    }
  }
  __syncthreads();

  // In place of the scratch. The number of lists takes the room behind the first query's points:
  // with four bytes more two blocks would not fit into the 100 KB of compute capability 8.6
  // and 8.9.
  const Lists lists{reinterpret_cast<unsigned*>(rest), reinterpret_cast<int*>(memory + stride) - 1};
  const auto corner_at = [&](unsigned corner) -> Corner<Traits>& {
    char* place = memory + stride * (corner / Lists::kCornersOfQuery);
    return reinterpret_cast<Corner<Traits>*>(place)[corner % Lists::kCornersOfQuery];
  };
  lists.template build<Traits::kBackwardThreads>(tile, 4 * count, corner_at);

  const int channel = threadIdx.x % Traits::kLanes * kVector;
  const int64_t first_row = tile.first_row(Traits::kChannels) + channel;
  const int64_t first =
      tile.image * problem.batch_stride + tile.head * problem.head_stride + channel;
  const T* grad_output = static_cast<const T*>(problem.grad_output) + first_row;
  const T* queries = static_cast<const T*>(problem.query) + first_row;
  Real* grad_value = static_cast<Real*>(problem.grad_value) + first;
  Real* grad_key = static_cast<Real*>(problem.grad_key) + first;
  make_global(grad_output);
  if constexpr (!kGiven) {
    make_global(queries);
  }
  const unsigned row_stride = static_cast<unsigned>(problem.heads) * Traits::kChannels;
  Real value_sum[kVector];
  Real key_sum[kVector];
  lists.template for_lists<kGroups>(
      group,
      [&] {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          value_sum[i] = key_sum[i] = 0;
        }
      },
      [&](unsigned number) {
        const Corner<Traits> corner = corner_at(number);
        const unsigned place = number / Lists::kCornersOfQuery;
        const unsigned row = tile.row_from_first(place, row_stride);
        Factors<Real, kScores> factors;
        Real gradient[kVector];
        Real query[kVector] = {};
        load(grad_output + row, gradient);
        if constexpr (!kGiven) {
          factors = Memory(memory + stride * place, count).factors[number / 4 % Traits::kPoints];
          load(queries + row, query);
        }
        Real value[kVector];
        Real key[kVector] = {};
        make_terms<Traits, kScores>(corner.weight, factors, gradient, query, value, key);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          value_sum[i] += value[i];
          key_sum[i] += kScores == Scores::kKey ? key[i] : 0;
        }
        return static_cast<unsigned>(corner.offset);
      },
      [&](unsigned token) {
        const unsigned offset = token * static_cast<unsigned>(problem.token_stride);
        add_atomically(grad_value + offset, value_sum);
        if constexpr (kScores == Scores::kKey) {
          add_atomically(grad_key + offset, key_sum);
        }
      });
}

}  // namespace
}  // namespace lite_focus
