// The choice among the kernels compiled for vectors of kBytes.
#pragma once

#include "cpu/key_aware_deform_attn.h"
#include "cpu/ms_deform_attn.h"

namespace lite_focus {

template <typename Traits>
Kernel select_operator(Operator name, bool shared) {
  switch (name) {
    case Operator::kMsDeformAttn:
      return &ms_deform_attn<Traits>;
    case Operator::kMsDeformAttnBackward:
      return &ms_deform_attn_backward<Traits, false>;
    case Operator::kKeyAwareDeformAttn:
      return shared ? &key_aware_deform_attn<Traits, true> : &key_aware_deform_attn<Traits, false>;
    case Operator::kKeyAwareDeformAttnBackward:
      return shared ? &key_aware_deform_attn_backward<Traits>
                    : &ms_deform_attn_backward<Traits, true>;
  }
  return nullptr;
}

template <typename T, int kBytes>
Kernel select_sizes(Operator name, const Problem& problem) {
  const bool shared = problem.key == nullptr;
  // The portable code and double precision are there to be right, not to be fast.
  if constexpr (kBytes > 16 && !std::is_same_v<T, double>) {
    constexpr int kPoints = 16;
    const bool offsets_fit = problem.tokens * problem.token_stride <= INT32_MAX;
    if (problem.levels * problem.points == kPoints && offsets_fit) {
      switch (problem.channels) {
        case 16:
          return select_operator<Traits<T, kBytes, 16, kPoints>>(name, shared);
        case 32:
          return select_operator<Traits<T, kBytes, 32, kPoints>>(name, shared);
        case 64:
          return select_operator<Traits<T, kBytes, 64, kPoints>>(name, shared);
      }
    }
  }
  return select_operator<Traits<T, kBytes, 0, 0>>(name, shared);
}

template <int kBytes>
Kernel select_kernel(Operator name, const Problem& problem) {
  switch (problem.kind) {
    case ScalarKind::kFloat:
      return select_sizes<float, kBytes>(name, problem);
    case ScalarKind::kDouble:
      return select_sizes<double, kBytes>(name, problem);
    case ScalarKind::kBFloat16:
      return select_sizes<BFloat16, kBytes>(name, problem);
    case ScalarKind::kHalf:
      return select_sizes<Half, kBytes>(name, problem);
  }
  return nullptr;
}

}  // namespace lite_focus
