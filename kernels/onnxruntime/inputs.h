// The inputs of a node of ONNX Runtime as a problem for the kernels, with every check of them.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "problem.h"

namespace lite_focus {

using Sizes = std::vector<int64_t>;

// A dense tensor of a session.
struct Input {
  Sizes sizes;
  const void* data;
};

// What a node says beside its inputs.
struct Attributes {
  float scale;
  bool mask_outside;
  bool separate_key;  // else the input `key` is left alone: the value is the key
};

Input read_input(const OrtApi& api, const OrtKernelContext* context, size_t index);

// The problems without their output; they throw std::invalid_argument, with one line that names an
// input that does not go with the others. The inputs have the order of
// export/attention_functions.py.
Problem ms_deform_attn_problem(const std::vector<Input>& inputs);
Problem key_aware_deform_attn_problem(const std::vector<Input>& inputs,
                                      const Attributes& attributes);

}  // namespace lite_focus
