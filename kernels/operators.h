// The operators on tensors, for any device: checks of the arguments, outputs, and the call of the
// kernels. Backend::run(Operator, problem, value) computes on the device of `value`. A backend with
// kCanIgnoreMaps leaves the gradients of value and key out where they are null; one with
// kAddsInAnyOrder needs memory for sums that are deterministic.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "problem.h"

namespace lite_focus {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

inline std::string to_string(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t i = 0; i < sizes.size(); ++i) {
    text << (i == 0 ? "(" : ", ") << sizes[i];
  }
  text << ")";
  return text.str();
}

inline Sizes sizes_of(const Tensor& tensor) {
  return Sizes(tensor.sizes().begin(), tensor.sizes().end());
}

inline ScalarKind kind_of(const Tensor& value) {
  switch (value.scalar_type()) {
    case ScalarType::Float:
      return ScalarKind::kFloat;
    case ScalarType::Double:
      return ScalarKind::kDouble;
    case ScalarType::BFloat16:
      return ScalarKind::kBFloat16;
    case ScalarType::Half:
      return ScalarKind::kHalf;
    default:
      STD_TORCH_CHECK(false, "value must be float32, float64, bfloat16 or float16");
  }
}

// The type of the arithmetic, in which coordinates are kept.
inline ScalarType exact_type(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// What is dense already need not go through the dispatcher.
inline Tensor to_dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline void check_tensor(const char* name, const Tensor& tensor, const Sizes& expected,
                         const Tensor& value) {
  const Sizes sizes = sizes_of(tensor);
  STD_TORCH_CHECK(sizes == expected, name, " must have the shape ", to_string(expected),
                  " to go with value ", to_string(sizes_of(value)), ", got ", to_string(sizes));
  STD_TORCH_CHECK(tensor.device() == value.device(), name, " and value must be on the same device");
}

inline void check_type(const char* name, const Tensor& tensor, const Tensor& value, bool exact) {
  const bool like_value = tensor.scalar_type() == value.scalar_type();
  const bool is_exact = tensor.scalar_type() == exact_type(value);
  STD_TORCH_CHECK(exact ? is_exact : (is_exact || like_value), name,
                  exact ? " must be float32, or float64 for a float64 value"
                        : " must have the dtype of value or float32");
}

inline void set_levels(Problem& problem, const Sizes& shapes) {
  STD_TORCH_CHECK(!shapes.empty() && shapes.size() % 2 == 0 && shapes.size() / 2 <= kMaxLevels,
                  "spatial_shapes must list height and width of 1 to ", kMaxLevels, " levels, got ",
                  to_string(shapes));
  problem.levels = static_cast<int32_t>(shapes.size() / 2);
  int64_t start = 0;
  for (int l = 0; l < problem.levels; ++l) {
    const int64_t height = shapes[2 * l];
    const int64_t width = shapes[2 * l + 1];
    STD_TORCH_CHECK(height > 0 && width > 0 && height <= INT32_MAX / width &&
                        start + height * width <= INT32_MAX,
                    "spatial_shapes must be positive and below 2^31 pixels in all, got ",
                    to_string(shapes));
    problem.level[l] = {static_cast<int32_t>(height), static_cast<int32_t>(width),
                        static_cast<int32_t>(start)};
    start += height * width;
  }
  STD_TORCH_CHECK(start == problem.tokens, "value has ", problem.tokens,
                  " tokens, but spatial_shapes ", to_string(shapes), " have ", start, " pixels");
}

// The tensors of a call in the layout that the kernels take, and the problem that points to them.
class __attribute__((visibility("hidden"))) Arguments {
 public:
  // `dense`: value and key must be contiguous, because their gradients will be.
  Arguments(const Tensor& value, const Sizes& shapes, bool dense) {
    STD_TORCH_CHECK(value.dim() == 4, "value must be (B, S, M, D), got ",
                    to_string(sizes_of(value)));
    problem_.kind = kind_of(value);
    problem_.batch = value.size(0);
    problem_.tokens = value.size(1);
    problem_.heads = static_cast<int32_t>(value.size(2));
    problem_.channels = static_cast<int32_t>(value.size(3));
    set_levels(problem_, shapes);
    value_ = dense || value.stride(3) != 1 ? to_dense(value) : value;
    problem_.batch_stride = value_.stride(0);
    problem_.token_stride = value_.stride(1);
    problem_.head_stride = value_.stride(2);
    problem_.value = value_.const_data_ptr();
  }

  void set_points(const std::optional<Tensor>& reference, const Tensor& sampling) {
    STD_TORCH_CHECK(sampling.dim() == 6, "sampling points must be (B, Q, M, L, P, 2), got ",
                    to_string(sizes_of(sampling)));
    problem_.queries = sampling.size(1);
    problem_.points = static_cast<int32_t>(sampling.size(4));
    const bool shared = reference.has_value() && sampling.size(3) == 1;
    problem_.point_levels = shared ? 1 : problem_.levels;
    STD_TORCH_CHECK(problem_.points > 0, "there must be at least one sampling point");
    problem_.box_unit = 0.5 / problem_.points;
    check_tensor("sampling points", sampling, sampling_sizes(), value_);
    check_type("sampling points", sampling, value_, !reference.has_value());
    problem_.sampling_exact = sampling.scalar_type() == exact_type(value_);
    problem_.sampling = keep(sampling);
    if (!reference.has_value()) {
      return;
    }
    const int64_t size = reference->dim() == 4 ? reference->size(3) : 0;
    STD_TORCH_CHECK(size == 2 || size == 4,
                    "reference_points must be (B, Q, L, 2) or (B, Q, L, 4), got ",
                    to_string(sizes_of(*reference)));
    problem_.reference_size = static_cast<int32_t>(size);
    const Sizes sizes = {problem_.batch, problem_.queries, problem_.levels, size};
    check_tensor("reference_points", *reference, sizes, value_);
    check_type("reference_points", *reference, value_, true);
    problem_.reference = keep(*reference);
  }

  void set_weights(const Tensor& weights) {
    Sizes sizes = {problem_.batch, problem_.queries, problem_.heads};
    if (problem_.reference_size == 0) {
      sizes.insert(sizes.end(), {problem_.levels, problem_.points});
    } else {
      sizes.push_back(int64_t{problem_.levels} * problem_.points);
    }
    check_tensor("attention weights or logits", weights, sizes, value_);
    check_type("attention weights or logits", weights, value_, false);
    problem_.weights_exact = weights.scalar_type() == exact_type(value_);
    problem_.weights_are_logits = problem_.reference_size != 0;
    problem_.weights = keep(weights);
    problem_.weights_head_stride = int64_t{problem_.levels} * problem_.points;
    problem_.weights_query_stride = problem_.weights_head_stride * problem_.heads;
    problem_.weights_image_stride = problem_.weights_query_stride * problem_.queries;
  }

  void set_query(const Tensor& query, const std::optional<Tensor>& key, double scale,
                 bool mask_outside) {
    check_tensor("query", query, item_sizes(), value_);
    STD_TORCH_CHECK(query.scalar_type() == value_.scalar_type(),
                    "query must have the dtype of value");
    problem_.scale = scale;
    problem_.mask_outside = mask_outside;
    problem_.query = keep(query);
    if (!key.has_value()) {
      return;
    }
    check_tensor("key", *key, sizes_of(value_), value_);
    STD_TORCH_CHECK(key->scalar_type() == value_.scalar_type(), "key must have the dtype of value");
    const Sizes strides(key->strides().begin(), key->strides().end());
    if (strides == Sizes(value_.strides().begin(), value_.strides().end())) {
      problem_.key = key->const_data_ptr();
      return;
    }
    // The kernels have one set of offsets for both.
    value_ = to_dense(value_);
    problem_.batch_stride = value_.stride(0);
    problem_.token_stride = value_.stride(1);
    problem_.head_stride = value_.stride(2);
    problem_.value = value_.const_data_ptr();
    problem_.key = keep(*key);
  }

  Tensor make_output() {
    const Sizes sizes = {problem_.batch, problem_.queries,
                         int64_t{problem_.heads} * problem_.channels};
    Tensor output = torch::stable::new_empty(value_, sizes);
    problem_.output = output.mutable_data_ptr();
    return output;
  }

  void set_grad_output(const Tensor& grad_output) {
    const Sizes sizes = {problem_.batch, problem_.queries,
                         int64_t{problem_.heads} * problem_.channels};
    check_tensor("grad_output", grad_output, sizes, value_);
    STD_TORCH_CHECK(grad_output.scalar_type() == value_.scalar_type(),
                    "grad_output must have the dtype of value");
    problem_.grad_output = keep(grad_output);
  }

  // Per head; `sum_heads` makes it the gradient of the references. Empty if it is not wanted.
  Tensor make_grad_reference(bool wanted) {
    Sizes sizes = {0};
    if (wanted && problem_.reference_size != 0) {
      sizes = {problem_.batch, problem_.queries, problem_.heads, problem_.levels,
               problem_.reference_size};
    }
    Tensor gradient = torch::stable::new_empty(value_, sizes, exact_type(value_));
    problem_.grad_reference = gradient.numel() > 0 ? gradient.mutable_data_ptr() : nullptr;
    return gradient;
  }

  Tensor make_accumulator() const {
    return torch::stable::new_empty(value_, sizes_of(value_), exact_type(value_));
  }

  // The gradients of value and, if there is one, key. With `fixed` they do not depend on the order
  // of additions.
  void set_grad_maps(const Tensor& grad_value, const std::optional<Tensor>& grad_key, bool fixed) {
    problem_.grad_value = grad_value.mutable_data_ptr();
    problem_.grad_key = grad_key.has_value() ? grad_key->mutable_data_ptr() : nullptr;
    if (!fixed) {
      return;
    }
    problem_.fixed_value = make_integers(sizes_of(value_));
    problem_.fixed_key = grad_key.has_value() ? make_integers(sizes_of(value_)) : nullptr;
    problem_.largest_terms = make_integers({2});
  }

  const Tensor& value() const { return value_; }
  Problem& problem() { return problem_; }

 private:
  Sizes sampling_sizes() const {
    return {problem_.batch,        problem_.queries, problem_.heads,
            problem_.point_levels, problem_.points,  2};
  }
  Sizes item_sizes() const {
    return {problem_.batch, problem_.queries, problem_.heads, problem_.channels};
  }

  void* make_integers(const Sizes& sizes) {
    kept_.push_back(torch::stable::new_empty(value_, sizes, ScalarType::Long));
    return kept_.back().mutable_data_ptr();
  }

  const void* keep(const Tensor& tensor) {
    kept_.push_back(to_dense(tensor));
    return kept_.back().const_data_ptr();
  }

  Problem problem_{};
  Tensor value_;
  std::vector<Tensor> kept_;
};

inline Tensor sum_heads(const Tensor& grad_reference) {
  if (grad_reference.dim() != 5) {
    return grad_reference;
  }
  const int64_t heads = 2;
  return torch::stable::sum(grad_reference, torch::headeronly::IntHeaderOnlyArrayRef(&heads, 1));
}

inline Tensor as_value(const Tensor& gradient, const Tensor& value) {
  return gradient.scalar_type() == value.scalar_type()
             ? gradient
             : torch::stable::to(gradient, value.scalar_type());
}

// Empty where there is none, or where a backend computed it although it is not wanted.
inline Tensor as_wanted(const std::optional<Tensor>& gradient, bool wanted, const Tensor& value) {
  return wanted && gradient.has_value() ? as_value(*gradient, value)
                                        : torch::stable::new_empty(value, {0});
}

template <typename Backend>
Tensor ms_deform_attn_op(const Tensor& value, const Sizes& spatial_shapes,
                         const std::optional<Tensor>& reference_points,
                         const Tensor& sampling_points, const Tensor& weights) {
  Arguments arguments(value, spatial_shapes, false);
  arguments.set_points(reference_points, sampling_points);
  arguments.set_weights(weights);
  Tensor output = arguments.make_output();
  Backend::run(Operator::kMsDeformAttn, arguments.problem(), value);
  return output;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_backward_op(
    const Tensor& grad_output, const Tensor& value, const Sizes& spatial_shapes,
    const std::optional<Tensor>& reference_points, const Tensor& sampling_points,
    const Tensor& weights, bool needs_reference, bool needs_value, bool deterministic) {
  Arguments arguments(value, spatial_shapes, true);
  arguments.set_points(reference_points, sampling_points);
  arguments.set_weights(weights);
  arguments.set_grad_output(grad_output);
  Problem& problem = arguments.problem();
  std::optional<Tensor> grad_value;
  if (needs_value || !Backend::kCanIgnoreMaps) {
    grad_value = arguments.make_accumulator();
    arguments.set_grad_maps(*grad_value, {}, deterministic && Backend::kAddsInAnyOrder);
  }
  const Tensor grad_reference = arguments.make_grad_reference(needs_reference);
  const Tensor grad_sampling = torch::stable::new_empty(sampling_points, sizes_of(sampling_points));
  const Tensor grad_weights = torch::stable::new_empty(weights, sizes_of(weights));
  problem.grad_sampling = grad_sampling.mutable_data_ptr();
  problem.grad_weights = grad_weights.mutable_data_ptr();
  Backend::run(Operator::kMsDeformAttnBackward, problem, value);
  return {as_wanted(grad_value, needs_value, value), sum_heads(grad_reference), grad_sampling,
          grad_weights};
}

template <typename Backend>
Tensor key_aware_deform_attn_op(const Tensor& query, const std::optional<Tensor>& key,
                                const Tensor& value, const Sizes& spatial_shapes,
                                const std::optional<Tensor>& reference_points,
                                const Tensor& sampling_points, double scale, bool mask_outside) {
  Arguments arguments(value, spatial_shapes, false);
  arguments.set_points(reference_points, sampling_points);
  arguments.set_query(query, key, scale, mask_outside);
  Tensor output = arguments.make_output();
  Backend::run(Operator::kKeyAwareDeformAttn, arguments.problem(), value);
  return output;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> key_aware_deform_attn_backward_op(
    const Tensor& grad_output, const Tensor& query, const std::optional<Tensor>& key,
    const Tensor& value, const Sizes& spatial_shapes, const std::optional<Tensor>& reference_points,
    const Tensor& sampling_points, double scale, bool mask_outside, bool needs_reference,
    bool needs_value, bool deterministic) {
  Arguments arguments(value, spatial_shapes, true);
  arguments.set_points(reference_points, sampling_points);
  arguments.set_query(query, key, scale, mask_outside);
  arguments.set_grad_output(grad_output);
  Problem& problem = arguments.problem();
  const Tensor grad_query = torch::stable::new_empty(query, sizes_of(query));
  std::optional<Tensor> grad_value;
  std::optional<Tensor> grad_key;
  if (needs_value || !Backend::kCanIgnoreMaps) {
    grad_value = arguments.make_accumulator();
    if (key.has_value()) {
      grad_key = arguments.make_accumulator();
    }
    arguments.set_grad_maps(*grad_value, grad_key, deterministic && Backend::kAddsInAnyOrder);
  }
  const Tensor grad_reference = arguments.make_grad_reference(needs_reference);
  const Tensor grad_sampling = torch::stable::new_empty(sampling_points, sizes_of(sampling_points));
  problem.grad_query = grad_query.mutable_data_ptr();
  problem.grad_sampling = grad_sampling.mutable_data_ptr();
  Backend::run(Operator::kKeyAwareDeformAttnBackward, problem, value);
  return {grad_query, as_wanted(grad_key, needs_value, value),
          as_wanted(grad_value, needs_value, value), sum_heads(grad_reference), grad_sampling};
}

}  // namespace lite_focus
