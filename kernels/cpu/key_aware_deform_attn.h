// Key-aware deformable attention: output = sum_p softmax_p(scale * query . key(x_p)) * value(x_p),
// and its gradient. With mask_outside the softmax is over the points inside of their maps.
#pragma once

#include "cpu/channels.h"
#include "cpu/gradients.h"
#include "cpu/kernels.h"

namespace lite_focus {

// Without a shared key this stores the logits and leaves the rest to ms_deform_attn, so that only
// one of key and value is in the cache at a time.
template <typename Traits, bool kShared>
void key_aware_deform_attn(const Problem& problem, const Range& range, void* scratch) {
  using T = typename Traits::T;
  using Scalar = typename Traits::Scalar;
  Sampler<Traits> sampler(problem, scratch);
  const Channels<Traits> channels(problem.channels, sampler);
  for_slots(range, [&](int64_t first, int count, int m) __attribute__((always_inline)) {
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      sampler.load_points(first + slot, m);
      sampler.template locate<false>(nullptr);
    }
    const T* key =
        static_cast<const T*>(kShared ? problem.value : problem.key) + m * problem.head_stride;
    const auto query = [&](int slot) __attribute__((always_inline)) {
      const int64_t item = (first + slot) * problem.heads + m;
      return static_cast<const T*>(problem.query) + item * problem.channels;
    };
    typename Traits::Lanes::Real doubt{};
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      doubt += channels.template key_logits<kShared>(key, query(slot), Scalar(problem.scale));
    }
    if (Traits::Lanes::any_nan(doubt)) {
      for (int slot = 0; slot < count; ++slot) {
        sampler.select_slot(slot);
        channels.template key_logits_inside<kShared>(key, query(slot), Scalar(problem.scale));
      }
    }
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      sampler.mask_logits();
      const int64_t q = first + slot;
      if constexpr (kShared) {
        sampler.softmax();
        const int64_t item = q * problem.heads + m;
        channels.weighted_samples(static_cast<T*>(problem.output) + item * problem.channels);
      } else {
        Scalar* logits = static_cast<Scalar*>(problem.attention) +
                         q * problem.weights_query_stride + m * problem.weights_head_stride;
        std::memcpy(logits, sampler.array(kAttention), sampler.count() * sizeof(Scalar));
      }
    }
  });
}

// From kKeyDots and kValueDots: the weights, their gradients, and the sum of the products of both.
template <typename Traits>
LITE_FOCUS_INLINE typename Traits::Scalar differentiate_weights(const Sampler<Traits>& sampler) {
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  auto* attention = sampler.array(kAttention);
  Real dots[4];
  for (int i = 0; i < sampler.padded(); i += Lanes::kLanes) {
    sampler.load_corners(kKeyDots, i, dots);
    Lanes::store(attention + i, sampler.interpolate_dots(dots, i));
  }
  for (int p = sampler.count(); p < sampler.padded(); ++p) {
    attention[p] = -__builtin_inf();
  }
  sampler.mask_logits();
  sampler.softmax();
  Real total{};
  for (int i = 0; i < sampler.padded(); i += Lanes::kLanes) {
    sampler.load_corners(kValueDots, i, dots);
    const Real gradient = sampler.interpolate_dots(dots, i);
    Lanes::store(sampler.array(kGradAttention) + i, gradient);
    total += gradient * Lanes::load(attention + i);
  }
  return Lanes::sum(total);
}

// The same where corners outside of the map are not finite.
template <typename Traits>
__attribute__((noinline, cold)) typename Traits::Scalar differentiate_weights_inside(
    Sampler<Traits> sampler) {
  sampler.clear_outside(kKeyDots);
  sampler.clear_outside(kValueDots);
  return differentiate_weights(sampler);
}

// From kKeyDots and kValueDots: the gradients of the positions and, in their place, the
// coefficients of the gradients of key and value. Whether all corners, those outside of the map
// too, are finite: one that is not makes the mean so.
template <typename Traits>
LITE_FOCUS_INLINE bool differentiate_keys(const Sampler<Traits>& sampler) {
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  const auto* attention = sampler.array(kAttention);
  auto* grad_logits = sampler.array(kGradAttention);
  Real key_dots[4];
  Real value_dots[4];
  auto mean = differentiate_weights(sampler);
  const bool finite = mean - mean == 0;
  if (__builtin_expect(!finite, 0)) {
    mean = differentiate_weights_inside(sampler);
  }
  for (int i = 0; i < sampler.padded(); i += Lanes::kLanes) {
    const Real a = Lanes::load(attention + i);
    const Real grad_logit = a * (Lanes::load(grad_logits + i) - mean);
    Real dots[4];
    sampler.load_corners(kKeyDots, i, key_dots);
    sampler.load_corners(kValueDots, i, value_dots);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      dots[c] = a * value_dots[c] + grad_logit * key_dots[c];
    }
    const auto position = sampler.differentiate_dots(dots, i);
    Lanes::store(sampler.array(kGradX) + i, position.x);
    Lanes::store(sampler.array(kGradY) + i, position.y);
    Lanes::store(grad_logits + i, grad_logit);
  }
  sampler.scale_corners(kAttention, kValueDots);
  sampler.scale_corners(kGradAttention, kKeyDots);
  if (__builtin_expect(!finite, 0)) {
    sampler.clear_outside(kValueDots);
    sampler.clear_outside(kKeyDots);
  }
  return finite;
}

// For a shared key. One of its own takes ms_deform_attn_backward twice, for value and for key.
template <typename Traits>
void key_aware_deform_attn_backward(const Problem& problem, const Range& range, void* scratch) {
  using T = typename Traits::T;
  using Scalar = typename Traits::Scalar;
  Sampler<Traits> sampler(problem, scratch);
  const Channels<Traits> channels(problem.channels, sampler);
  const Scalar scale = Scalar(problem.scale);
  for_slots(range, [&](int64_t first, int count, int m) __attribute__((always_inline)) {
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      sampler.load_points(first + slot, m);
      sampler.template locate<true>(nullptr);
    }
    const T* head = static_cast<const T*>(problem.value) + m * problem.head_stride;
    Scalar* grad_head = static_cast<Scalar*>(problem.grad_value) + m * problem.head_stride;
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      const int64_t item = (first + slot) * problem.heads + m;
      const T* query = static_cast<const T*>(problem.query) + item * problem.channels;
      const T* grad_output = static_cast<const T*>(problem.grad_output) + item * problem.channels;
      channels.corner_dots(head, query, scale, grad_output);
    }
    bool finite = true;
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      finite &= differentiate_keys(sampler);
    }
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      const int64_t item = (first + slot) * problem.heads + m;
      const int64_t start = item * problem.channels;
      channels.key_value_gradients(head, static_cast<const T*>(problem.query) + start, scale,
                                   static_cast<const T*>(problem.grad_output) + start, grad_head,
                                   static_cast<T*>(problem.grad_query) + start);
      store_position_gradients<false>(sampler, problem, item);
    }
    if (!finite) {
      for (int slot = 0; slot < count; ++slot) {
        sampler.select_slot(slot);
        const int64_t start = ((first + slot) * problem.heads + m) * problem.channels;
        channels.query_gradient_inside(head, scale, static_cast<T*>(problem.grad_query) + start);
      }
    }
  });
}

}  // namespace lite_focus
