// The choice among the kernels compiled for vectors of kBytes. LITE_FOCUS_INFERENCE leaves out what
// a library does not need that computes no gradients, and in single precision alone.
#pragma once

#include "cpu/key_aware_deform_attn.h"
#include "cpu/ms_deform_attn.h"

namespace lite_focus {

template <typename Traits>
Kernel select_operator(Operator name, bool shared) {
  switch (name) {
    case Operator::kMsDeformAttn:
      return &ms_deform_attn<Traits>;
    case Operator::kKeyAwareDeformAttn:
      return shared ? &key_aware_deform_attn<Traits, true> : &key_aware_deform_attn<Traits, false>;
#if defined(LITE_FOCUS_INFERENCE)
    default:
      break;
#else
    case Operator::kMsDeformAttnBackward:
      return &ms_deform_attn_backward<Traits, false>;
    case Operator::kKeyAwareDeformAttnBackward:
      return shared ? &key_aware_deform_attn_backward<Traits>
                    : &ms_deform_attn_backward<Traits, true>;
#endif
  }
  return nullptr;
}

// Fast paths: for 16 points, the most common number, and for any other.
template <typename T, int kBytes, int kChannels>
Kernel select_points(Operator name, const Problem& problem) {
  constexpr int kPoints = 16;
  const bool shared = problem.key == nullptr;
  return problem.levels * problem.points == kPoints
             ? select_operator<Traits<T, kBytes, kChannels, kPoints>>(name, shared)
             : select_operator<Traits<T, kBytes, kChannels, 0>>(name, shared);
}

// Code for any processor and double precision are there to be right, not to be fast; vectors of 16
// bytes are all that NEON has. For the sanitizers one precision is enough: their code is the same.
#if defined(LITE_FOCUS_PORTABLE)
template <typename T, int kBytes>
constexpr bool kIsFast = std::is_same_v<T, float>;
#elif defined(__aarch64__)
template <typename T, int kBytes>
constexpr bool kIsFast = !std::is_same_v<T, double>;
#else
template <typename T, int kBytes>
constexpr bool kIsFast = kBytes > 16 && !std::is_same_v<T, double>;
#endif

// Heads of any other width use vectors of 64 bytes only where they fill them, otherwise (nullptr)
// shorter ones: what is left of 24 or 40 channels behind the last whole vector costs more than the
// others save. In half and double precision they gain too little for the size of their code.
template <typename T, int kBytes>
Kernel select_sizes(Operator name, const Problem& problem) {
  constexpr int kLanes = kBytes / sizeof(float);
  if constexpr (kIsFast<T, kBytes>) {
    const bool offsets_fit = problem.tokens * problem.token_stride <= INT32_MAX;
    switch (offsets_fit ? problem.channels : 0) {
      case 16:
        return select_points<T, kBytes, 16>(name, problem);
      case 32:
        return select_points<T, kBytes, 32>(name, problem);
      case 64:
        return select_points<T, kBytes, 64>(name, problem);
    }
  }
  if constexpr (kBytes < 64 || std::is_same_v<T, float> || std::is_same_v<T, BFloat16>) {
    if (kBytes < 64 || problem.channels % kLanes == 0) {
      return select_operator<Traits<T, kBytes, 0, 0>>(name, problem.key == nullptr);
    }
  }
  return nullptr;
}

template <int kBytes>
Kernel select_kernel(Operator name, const Problem& problem) {
  switch (problem.kind) {
    case ScalarKind::kFloat:
      return select_sizes<float, kBytes>(name, problem);
#if defined(LITE_FOCUS_INFERENCE)
    default:
      break;
#else
    case ScalarKind::kDouble:
      return select_sizes<double, kBytes>(name, problem);
    case ScalarKind::kBFloat16:
      return select_sizes<BFloat16, kBytes>(name, problem);
    case ScalarKind::kHalf:
      return select_sizes<Half, kBytes>(name, problem);
#endif
  }
  return nullptr;
}

}  // namespace lite_focus
