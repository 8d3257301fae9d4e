// The channels of one head at the points of one query: weighted sums, dot products and their
// gradients.
#pragma once

#include "cpu/sampling.h"

namespace lite_focus {

// kVectors vectors of channels from `first` on; kPartial: one vector of which `rest` lanes exist.
template <typename Lanes, int kVectors_, bool kPartial>
struct Block {
  using Real = typename Lanes::Real;
  static constexpr int kVectors = kVectors_;
  int first;
  int rest;

  template <typename U>
  LITE_FOCUS_INLINE Real load(const U* source, int vector) const {
    source += first + vector * Lanes::kLanes;
    if constexpr (kPartial) {
      U lanes[Lanes::kLanes] = {};
      for (int i = 0; i < rest; ++i) {
        lanes[i] = source[i];
      }
      return Lanes::load(lanes);
    } else {
      return Lanes::load(source);
    }
  }

  template <typename U>
  LITE_FOCUS_INLINE void store(U* target, int vector, Real x) const {
    target += first + vector * Lanes::kLanes;
    if constexpr (kPartial) {
      U lanes[Lanes::kLanes];
      Lanes::store(lanes, x);
      for (int i = 0; i < rest; ++i) {
        target[i] = lanes[i];
      }
    } else {
      Lanes::store(target, x);
    }
  }
};

template <typename Traits>
class Channels {
 public:
  using T = typename Traits::T;
  using Scalar = typename Traits::Scalar;
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  static constexpr int kLanes = Lanes::kLanes;

  LITE_FOCUS_INLINE Channels(int channels, const Sampler<Traits>& sampler)
      : channels_(channels), sampler_(sampler) {}

  // target = sum over points and corners of weights * head. A corner outside of its map is read at
  // the nearest pixel with weight zero, which is wrong where that pixel is not finite: the result
  // is a vector of zeros unless the sum is not finite, and then weighted_sum_inside is right.
  LITE_FOCUS_INLINE Real weighted_sum(Array weights, const T* head, T* target) const {
    Real doubt{};
    for_blocks([&](auto block) __attribute__((always_inline)) {
      constexpr int kVectors = decltype(block)::kVectors;
      // As many independent sums as hide the latency of an addition.
      constexpr int kSums = kVectors >= 8 ? 1 : kVectors >= 4 ? 2 : 4;
      Real sums[kSums][kVectors] = {};
#pragma GCC unroll 4
      for (int p = 0; p < sampler_.count(); ++p) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          const T* pixel = head + sampler_.offsets(c)[p];
          const Scalar weight = sampler_.array(weights + c)[p];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            sums[c % kSums][v] += weight * block.load(pixel, v);
          }
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        Real total = sums[0][v];
#pragma GCC unroll 4
        for (int c = 1; c < kSums; ++c) {
          total += sums[c][v];
        }
        block.store(target, v, total);
        doubt += total - total;
      }
    });
    return doubt;
  }

  // The same of the corners inside alone. As all that is slow it has copies of the objects: the
  // compiler keeps those of the fast path in registers.
  LITE_FOCUS_INLINE void weighted_sum_inside(Array weights, const T* head, T* target) const {
    sum_inside(channels_, sampler_, weights, kAttention, head, target);
  }

  // Points are taken in pairs, so that a number of points that fills no vector costs no more than
  // its share. Whether pair i of the block from `first` on is beyond the last point.
  LITE_FOCUS_INLINE bool is_beyond(int first, int i) const {
    return i % 2 == 0 && first + i >= sampler_.count();
  }

  // kAttention = scale * query . interpolated key; kKeep also keeps the latter in kSamples. As for
  // weighted_sum the result tells whether key_logits_inside is needed.
  template <bool kKeep>
  LITE_FOCUS_INLINE Real key_logits(const T* head, const T* query, Scalar scale) const {
    Scalar* logits = sampler_.array(kAttention);
    Real doubt{};
    for (int first = 0; first < sampler_.padded(); first += kLanes) {
      Real rows[kLanes] = {};
      for_blocks([&](auto block) __attribute__((always_inline)) {
        constexpr int kVectors = decltype(block)::kVectors;
        Real q[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          q[v] = block.load(query, v) * scale;
        }
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if (is_beyond(first, i)) {
            break;
          }
          const int p = first + i;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            const Real key = interpolate_at(block, head, p, v);
            rows[i] += q[v] * key;
            if constexpr (kKeep) {
              block.store(samples(p), v, key);
            }
          }
        }
      });
      const Real sums = Lanes::sum_rows(rows);
      Lanes::store(logits + first, sums);
      doubt += sums - sums;
    }
    for (int p = sampler_.count(); p < sampler_.padded(); ++p) {
      logits[p] = -Scalar(__builtin_inf());
    }
    return doubt;
  }

  template <bool kKeep>
  LITE_FOCUS_INLINE void key_logits_inside(const T* head, const T* query, Scalar scale) const {
    logits_inside<kKeep>(channels_, sampler_, head, query, scale);
  }

  // target = sum over points of kAttention * kSamples.
  LITE_FOCUS_INLINE void weighted_samples(T* target) const {
    const Scalar* attention = sampler_.array(kAttention);
    for_blocks([&](auto block) __attribute__((always_inline)) {
      constexpr int kVectors = decltype(block)::kVectors;
      Real even[kVectors] = {};
      Real odd[kVectors] = {};
      // An odd number of points has one of padding, whose weight is zero.
#pragma GCC unroll 8
      for (int p = 0; p < sampler_.count(); p += 2) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          even[v] += attention[p] * block.load(samples(p), v);
          odd[v] += attention[p + 1] * block.load(samples(p + 1), v);
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        block.store(target, v, even[v] + odd[v]);
      }
    });
  }

  // kValueDots[c] = grad_output . head at corner c, and grad_head gains kKeyDots[c] * grad_output.
  LITE_FOCUS_INLINE void value_gradients(const T* head, const T* grad_output,
                                         Scalar* grad_head) const {
    for (int first = 0; first < sampler_.padded(); first += kLanes) {
      for (int c = 0; c < 4; ++c) {
        Real rows[kLanes] = {};
        for_blocks([&](auto block) __attribute__((always_inline)) {
          constexpr int kVectors = decltype(block)::kVectors;
          Real g[kVectors];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            g[v] = block.load(grad_output, v);
          }
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) {
            if (is_beyond(first, i)) {
              break;
            }
            const auto offset = sampler_.offsets(c)[first + i];
            const Scalar weight = sampler_.array(kKeyDots + c)[first + i];
            Scalar* target = grad_head + offset;
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) {
              rows[i] += g[v] * block.load(head + offset, v);
              block.store(target, v, block.load(target, v) + weight * g[v]);
            }
          }
        });
        Lanes::store(sampler_.array(kValueDots + c) + first, Lanes::sum_rows(rows));
      }
    }
  }

  // kKeyDots[c] = scale * query . head and kValueDots[c] = grad_output . head at corner c.
  LITE_FOCUS_INLINE void corner_dots(const T* head, const T* query, Scalar scale,
                                     const T* grad_output) const {
    // Half of the rows of a reduction are of the query, the other half of the gradient.
    constexpr int kHalf = kLanes / 2;
    for (int first = 0; first < sampler_.padded(); first += kHalf) {
      for (int c = 0; c < 4; ++c) {
        Real rows[kLanes] = {};
        for_blocks([&](auto block) __attribute__((always_inline)) {
          constexpr int kVectors = decltype(block)::kVectors;
          Real q[kVectors];
          Real g[kVectors];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            q[v] = block.load(query, v) * scale;
            g[v] = block.load(grad_output, v);
          }
#pragma GCC unroll 16
          for (int i = 0; i < kHalf; ++i) {
            if (is_beyond(first, i)) {
              break;
            }
            const auto offset = sampler_.offsets(c)[first + i];
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) {
              const Real pixel = block.load(head + offset, v);
              rows[i] += q[v] * pixel;
              rows[kHalf + i] += g[v] * pixel;
            }
          }
        });
        Scalar dots[kLanes];
        Lanes::store(dots, Lanes::sum_rows(rows));
        std::memcpy(sampler_.array(kKeyDots + c) + first, dots, sizeof(dots) / 2);
        std::memcpy(sampler_.array(kValueDots + c) + first, dots + kHalf, sizeof(dots) / 2);
      }
    }
  }

  // With the coefficients kValueDots and kKeyDots of the corners: grad_head gains value coefficient
  // * grad_output + key coefficient * scale * query, and grad_query is scale * the sum of key
  // coefficient * head.
  // Where a corner outside of the map is not finite, query_gradient_inside is needed.
  LITE_FOCUS_INLINE void key_value_gradients(const T* head, const T* query, Scalar scale,
                                             const T* grad_output, Scalar* grad_head,
                                             T* grad_query) const {
    for_blocks([&](auto block) __attribute__((always_inline)) {
      constexpr int kVectors = decltype(block)::kVectors;
      Real q[kVectors];
      Real g[kVectors];
      Real sums[2][kVectors] = {};
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        q[v] = block.load(query, v) * scale;
        g[v] = block.load(grad_output, v);
      }
      for (int p = 0; p < sampler_.count(); ++p) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          const auto offset = sampler_.offsets(c)[p];
          const Scalar value_weight = sampler_.array(kValueDots + c)[p];
          const Scalar key_weight = sampler_.array(kKeyDots + c)[p];
          Scalar* target = grad_head + offset;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            sums[c % 2][v] += key_weight * block.load(head + offset, v);
            const Real sum = block.load(target, v) + value_weight * g[v];
            block.store(target, v, sum + key_weight * q[v]);
          }
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        block.store(grad_query, v, (sums[0][v] + sums[1][v]) * scale);
      }
    });
  }

  // Its grad_query from the corners inside alone. Scales kKeyDots.
  LITE_FOCUS_INLINE void query_gradient_inside(const T* head, Scalar scale, T* grad_query) const {
    gradient_inside(channels_, sampler_, head, scale, grad_query);
  }

 private:
  // The weights are those of the corners times the factors.
  static __attribute__((noinline, cold)) void sum_inside(int channels, Sampler<Traits> sampler,
                                                         Array weights, Array factors,
                                                         const T* head, T* target) {
    const Channels self(channels, sampler);
    self.for_blocks([&](auto block) __attribute__((always_inline)) {
      constexpr int kVectors = decltype(block)::kVectors;
      Real sums[kVectors] = {};
      for (int p = 0; p < sampler.count(); ++p) {
        int outside = 0;
        for (int c = 0; c < 4; ++c) {
          if (sampler.is_outside(c, p)) {
            ++outside;
            continue;
          }
          for (int v = 0; v < kVectors; ++v) {
            sums[v] += sampler.array(weights + c)[p] * block.load(head + sampler.offsets(c)[p], v);
          }
        }
        // What lies outside is zero: with a factor that is not finite the product is no number.
        for (int v = 0; v < kVectors && outside == 4; ++v) {
          sums[v] += sampler.array(factors)[p] * 0;
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        block.store(target, v, sums[v]);
      }
    });
  }

  template <bool kKeep>
  static __attribute__((noinline, cold)) void logits_inside(int channels, Sampler<Traits> sampler,
                                                            const T* head, const T* query,
                                                            Scalar scale) {
    const Channels self(channels, sampler);
    Scalar* logits = sampler.array(kAttention);
    std::memset(logits, 0, sampler.count() * sizeof(Scalar));
    self.for_blocks([&](auto block) __attribute__((always_inline)) {
      constexpr int kVectors = decltype(block)::kVectors;
      // With the point of padding that makes the last pair.
      for (int p = 0; p < sampler.count() + sampler.count() % 2; ++p) {
        Real product{};
        for (int v = 0; v < kVectors; ++v) {
          Real key{};
          for (int c = 0; c < 4; ++c) {
            if (!sampler.is_outside(c, p)) {
              key += sampler.array(kWeight + c)[p] * block.load(head + sampler.offsets(c)[p], v);
            }
          }
          product += block.load(query, v) * scale * key;
          if constexpr (kKeep) {
            block.store(self.samples(p), v, key);
          }
        }
        if (p < sampler.count()) {
          logits[p] += Lanes::sum(product);
        }
      }
    });
  }

  static __attribute__((noinline, cold)) void gradient_inside(int channels, Sampler<Traits> sampler,
                                                              const T* head, Scalar scale,
                                                              T* grad_query) {
    for (int c = 0; c < 4; ++c) {
      for (int p = 0; p < sampler.count(); ++p) {
        sampler.array(kKeyDots + c)[p] *= scale;
      }
    }
    sum_inside(channels, sampler, kKeyDots, kGradAttention, head, grad_query);
  }

  template <typename Function>
  LITE_FOCUS_INLINE void for_blocks(Function function) const {
    if constexpr (Traits::kChannels != 0) {
      function(Block<Lanes, Traits::kChannels / kLanes, false>{0, 0});
    } else {
      constexpr int kVectors = 4;
      int first = 0;
      for (; first + kVectors * kLanes <= channels_; first += kVectors * kLanes) {
        function(Block<Lanes, kVectors, false>{first, 0});
      }
      for (; first + kLanes <= channels_; first += kLanes) {
        function(Block<Lanes, 1, false>{first, 0});
      }
      if (first < channels_) {
        function(Block<Lanes, 1, true>{first, channels_ - first});
      }
    }
  }

  template <typename Block>
  LITE_FOCUS_INLINE Real interpolate_at(Block block, const T* head, int p, int v) const {
    Real corners[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      corners[c] = sampler_.array(kWeight + c)[p] * block.load(head + sampler_.offsets(c)[p], v);
    }
    return (corners[0] + corners[1]) + (corners[2] + corners[3]);
  }

  LITE_FOCUS_INLINE Scalar* samples(int p) const {
    const int channels = Traits::kChannels ? Traits::kChannels : channels_;
    return sampler_.array(kSamples) + int64_t(p) * channels;
  }

  int channels_;
  const Sampler<Traits>& sampler_;
};

}  // namespace lite_focus
