// Multi-scale deformable attention: output = sum_p attention_p * value(x_p), and its gradient.
#pragma once

#include "cpu/channels.h"
#include "cpu/gradients.h"
#include "cpu/kernels.h"

namespace lite_focus {

template <typename Traits>
void ms_deform_attn(const Problem& problem, const Range& range, void* scratch) {
  using T = typename Traits::T;
  Sampler<Traits> sampler(problem, scratch);
  const Channels<Traits> channels(problem.channels, sampler);
  for_slots(range, [&](int64_t first, int count, int m) __attribute__((always_inline)) {
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      sampler.load_points(first + slot, m);
      sampler.load_attention(first + slot, m);
      sampler.template locate<false>(sampler.array(kAttention));
    }
    const T* head = static_cast<const T*>(problem.value) + m * problem.head_stride;
    const auto output = [&](int slot) __attribute__((always_inline)) {
      const int64_t item = (first + slot) * problem.heads + m;
      return static_cast<T*>(problem.output) + item * problem.channels;
    };
    typename Traits::Lanes::Real doubt{};
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      doubt += channels.weighted_sum(kWeight, head, output(slot));
    }
    if (Traits::Lanes::any_nan(doubt)) {
      for (int slot = 0; slot < count; ++slot) {
        sampler.select_slot(slot);
        channels.weighted_sum_inside(kWeight, head, output(slot));
      }
    }
  });
}

// From kValueDots: the gradients of the weights and of the positions; the sum over the points of
// the former times the weights.
template <typename Traits>
LITE_FOCUS_INLINE typename Traits::Scalar differentiate_points(const Sampler<Traits>& sampler) {
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  const auto* attention = sampler.array(kAttention);
  auto* grad_attention = sampler.array(kGradAttention);
  Real total{};
  for (int i = 0; i < sampler.padded(); i += Lanes::kLanes) {
    Real dots[4];
    sampler.load_corners(kValueDots, i, dots);
    const Real gradient = sampler.interpolate_dots(dots, i);
    const Real a = Lanes::load(attention + i);
    total += a * gradient;
    Lanes::store(grad_attention + i, gradient);
    const auto position = sampler.differentiate_dots(dots, i);
    Lanes::store(sampler.array(kGradX) + i, a * position.x);
    Lanes::store(sampler.array(kGradY) + i, a * position.y);
  }
  return Lanes::sum(total);
}

// The same where corners outside of the map are not finite; of a copy, as all that is slow, so that
// the compiler keeps the sampler of the fast path in registers.
template <typename Traits>
__attribute__((noinline, cold)) typename Traits::Scalar differentiate_points_inside(
    Sampler<Traits> sampler) {
  sampler.clear_outside(kValueDots);
  return differentiate_points(sampler);
}

// The same for weights or for logits, and whatever corners outside of the map hold.
template <typename Traits>
LITE_FOCUS_INLINE void differentiate_attention(const Sampler<Traits>& sampler, bool logits) {
  using Lanes = typename Traits::Lanes;
  using Real = typename Lanes::Real;
  auto mean = differentiate_points(sampler);
  if (__builtin_expect(mean != mean, 0)) {
    mean = differentiate_points_inside(sampler);
  }
  if (logits) {
    const auto* attention = sampler.array(kAttention);
    auto* grad_attention = sampler.array(kGradAttention);
    for (int i = 0; i < sampler.padded(); i += Lanes::kLanes) {
      const Real gradient = Lanes::load(grad_attention + i) - mean;
      Lanes::store(grad_attention + i, Lanes::load(attention + i) * gradient);
    }
  }
}

// kOutput: `output` is wanted as well, which is scale * the forward, and so are all gradients;
// those of the positions are added to what is there, and there are none of the weights. That is how
// the gradient goes on through the logits of key-aware attention: their gradients are the weights,
// the key is the value, the query is grad_output, and its gradient is the output.
template <typename Traits, bool kOutput>
void ms_deform_attn_backward(const Problem& problem, const Range& range, void* scratch) {
  using T = typename Traits::T;
  using Scalar = typename Traits::Scalar;
  Sampler<Traits> sampler(problem, scratch);
  const Channels<Traits> channels(problem.channels, sampler);
  for_slots(range, [&](int64_t first, int count, int m) __attribute__((always_inline)) {
    bool finite = true;
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      sampler.load_points(first + slot, m);
      sampler.load_attention(first + slot, m);
      sampler.template locate<true>(nullptr);
      if constexpr (kOutput) {
        sampler.scale_attention(Scalar(problem.scale));
      }
      sampler.scale_corners(kAttention, kKeyDots);
      if (!sampler.is_finite(kAttention)) {
        sampler.clear_outside(kKeyDots);
        finite = false;
      }
    }
    const int64_t head = m * problem.head_stride;
    const T* value = static_cast<const T*>(problem.value) + head;
    typename Traits::Lanes::Real doubt{};
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      const int64_t item = (first + slot) * problem.heads + m;
      const int64_t start = item * problem.channels;
      channels.value_gradients(value, static_cast<const T*>(problem.grad_output) + start,
                               static_cast<Scalar*>(problem.grad_value) + head);
      if constexpr (kOutput) {
        doubt += channels.weighted_sum(kKeyDots, value, static_cast<T*>(problem.output) + start);
      }
    }
    if constexpr (kOutput) {
      if (!finite || Traits::Lanes::any_nan(doubt)) {
        for (int slot = 0; slot < count; ++slot) {
          sampler.select_slot(slot);
          const int64_t start = ((first + slot) * problem.heads + m) * problem.channels;
          channels.weighted_sum_inside(kKeyDots, value, static_cast<T*>(problem.output) + start);
        }
      }
    }
    for (int slot = 0; slot < count; ++slot) {
      sampler.select_slot(slot);
      const int64_t item = (first + slot) * problem.heads + m;
      differentiate_attention(sampler, problem.weights_are_logits);
      if constexpr (!kOutput) {
        store_weight_gradients(sampler, problem, first + slot, m);
      }
      store_position_gradients<kOutput>(sampler, problem, item);
    }
  });
}

}  // namespace lite_focus
