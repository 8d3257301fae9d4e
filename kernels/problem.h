// The sizes and pointers that every kernel works on, and the checks of the operators' arguments.
#pragma once

#include <cstdint>

namespace lite_focus {

constexpr int kMaxLevels = 16;

// Of a point that is masked out. It is finite, so that a softmax over such points alone is not NaN:
// what weight they get does not matter then, because their samples are zero.
constexpr float kMaskedLogit = -3.4028234664e38f;

struct Level {
  int32_t height;
  int32_t width;
  int32_t start;  // first token
};

enum class Operator : int32_t {
  kMsDeformAttn,
  kMsDeformAttnBackward,
  kKeyAwareDeformAttn,
  kKeyAwareDeformAttnBackward,
};

enum class ScalarKind : int32_t { kFloat, kDouble, kBFloat16, kHalf };

// B batch, S tokens, Q queries, M heads, D channels of a head, L levels, P points. The pointers
// are to the tensors of `register.cpp`; those that an operator does not have are null.
//
// What a kernel computes in is float, or double for double values; `kind` is what value, key,
// query and output are stored in. References are stored in the former, points (locations or
// offsets) and weights in the former if the flag says so, else in the latter. The gradients of
// value and key are accumulated, hence stored, in the former.
struct Problem {
  int64_t batch, tokens, queries;
  int32_t heads, channels, levels, points;
  Level level[kMaxLevels];
  ScalarKind kind;

  const void* value;  // (B, S, M, D) with strides
  const void* key;    // like value, or null: the key is the value
  int64_t batch_stride, token_stride, head_stride;
  const void* query;  // (B, Q, M, D)
  double scale;       // of the logits
  bool mask_outside;  // points outside of their map have no part in the softmax

  // 0: points are locations; 2: offsets from reference points; 4: offsets from boxes.
  int32_t reference_size;
  const void* reference;  // (B, Q, L, 2 | 4)
  double box_unit;        // 1 / 2P, of an offset from a box
  const void* sampling;   // (B, Q, M, point_levels, P, 2)
  int32_t point_levels;   // L, or 1: the same offsets on every level
  bool sampling_exact;
  const void* weights;  // (B, Q, M, L * P), the first three with the strides below
  int64_t weights_image_stride, weights_query_stride, weights_head_stride;
  bool weights_exact;
  bool weights_are_logits;  // of a softmax over L * P

  void* output;     // (B, Q, M, D)
  void* attention;  // weights that an operator computes, with the strides of `weights`

  const void* grad_output;
  void* grad_value;  // (B, S, M, D); on CUDA null, like the next one, if it is not wanted
  void* grad_key;    // like grad_value
  // On CUDA, for gradients that do not depend on the order of the additions: integers of 64 bits
  // for the former two, and one for the largest term.
  void* fixed_value;
  void* fixed_key;
  void* largest_terms;
  void* grad_query;
  void* grad_reference;  // (B, Q, M, L, 2 | 4), before the sum over heads, or null
  void* grad_sampling;
  void* grad_weights;
};

}  // namespace lite_focus
