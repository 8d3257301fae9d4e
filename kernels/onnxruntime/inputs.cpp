#include "onnxruntime/inputs.h"

#include <sstream>
#include <stdexcept>

#include "onnxruntime/status.h"

namespace lite_focus {
namespace {

std::string to_string(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t i = 0; i < sizes.size(); ++i) {
    text << (i == 0 ? "(" : ", ") << sizes[i];
  }
  text << (sizes.empty() ? "()" : ")");
  return text.str();
}

void require(bool fits, const std::string& message) {
  if (!fits) {
    throw std::invalid_argument(message);
  }
}

void require_rank(const char* name, const Input& input, size_t rank, const char* expected) {
  require(input.sizes.size() == rank,
          std::string(name) + " must be " + expected + ", got " + to_string(input.sizes));
}

void require_sizes(const char* name, const Input& input, const Sizes& expected,
                   const Input& value) {
  require(input.sizes == expected, std::string(name) + " must have the shape " +
                                       to_string(expected) + " to go with value " +
                                       to_string(value.sizes) + ", got " + to_string(input.sizes));
}

void set_levels(Problem& problem, const Input& spatial_shapes) {
  require_rank("spatial_shapes", spatial_shapes, 1, "one list of heights and widths");
  const auto* sides = static_cast<const int64_t*>(spatial_shapes.data);
  const Sizes shapes(sides, sides + spatial_shapes.sizes[0]);
  require(!shapes.empty() && shapes.size() % 2 == 0 && shapes.size() / 2 <= kMaxLevels,
          "spatial_shapes must list height and width of 1 to " + std::to_string(kMaxLevels) +
              " levels, got " + std::to_string(shapes.size()) + " numbers");
  problem.levels = static_cast<int32_t>(shapes.size() / 2);
  int64_t start = 0;
  for (int l = 0; l < problem.levels; ++l) {
    const int64_t height = shapes[2 * l];
    const int64_t width = shapes[2 * l + 1];
    require(
        height > 0 && width > 0 && height <= INT32_MAX / width &&
            start + height * width <= INT32_MAX,
        "spatial_shapes must be positive and below 2^31 pixels in all, got " + to_string(shapes));
    problem.level[l] = {static_cast<int32_t>(height), static_cast<int32_t>(width),
                        static_cast<int32_t>(start)};
    start += height * width;
  }
  require(start == problem.tokens, "value has " + std::to_string(problem.tokens) +
                                       " tokens, but spatial_shapes " + to_string(shapes) +
                                       " have " + std::to_string(start) + " pixels");
}

void set_value(Problem& problem, const Input& value, const Input& spatial_shapes) {
  require_rank("value", value, 4, "(B, S, M, D)");
  problem.kind = ScalarKind::kFloat;
  problem.batch = value.sizes[0];
  problem.tokens = value.sizes[1];
  problem.heads = static_cast<int32_t>(value.sizes[2]);
  problem.channels = static_cast<int32_t>(value.sizes[3]);
  problem.head_stride = problem.channels;
  problem.token_stride = problem.head_stride * problem.heads;
  problem.batch_stride = problem.token_stride * problem.tokens;
  problem.value = value.data;
  set_levels(problem, spatial_shapes);
}

void set_points(Problem& problem, const Input& reference_points, const Input& sampling_offsets,
                const Input& value) {
  require_rank("sampling_offsets", sampling_offsets, 6, "(B, Q, M, L or 1, P, 2)");
  problem.queries = sampling_offsets.sizes[1];
  problem.points = static_cast<int32_t>(sampling_offsets.sizes[4]);
  problem.point_levels = sampling_offsets.sizes[3] == 1 ? 1 : problem.levels;
  require(problem.points > 0, "there must be at least one sampling point");
  require_sizes(
      "sampling_offsets", sampling_offsets,
      {problem.batch, problem.queries, problem.heads, problem.point_levels, problem.points, 2},
      value);
  problem.box_unit = 0.5 / problem.points;
  problem.sampling_exact = true;
  problem.sampling = sampling_offsets.data;

  const Sizes& sizes = reference_points.sizes;
  require(sizes.size() == 4 && (sizes[3] == 2 || sizes[3] == 4),
          "reference_points must be (B, Q, L, 2) or (B, Q, L, 4), got " + to_string(sizes));
  problem.reference_size = static_cast<int32_t>(sizes[3]);
  require_sizes("reference_points", reference_points,
                {problem.batch, problem.queries, problem.levels, sizes[3]}, value);
  problem.reference = reference_points.data;
}

}  // namespace

Input read_input(const OrtApi& api, const OrtKernelContext* context, size_t index) {
  const OrtValue* tensor = nullptr;
  throw_status(api, api.KernelContext_GetInput(context, index, &tensor));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  throw_status(api, api.GetTensorTypeAndShape(tensor, &info));
  size_t rank = 0;
  OrtStatus* status = api.GetDimensionsCount(info, &rank);
  Input input{Sizes(rank), nullptr};
  if (status == nullptr) {
    status = api.GetDimensions(info, input.sizes.data(), rank);
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  throw_status(api, status);
  void* data = nullptr;
  throw_status(api, api.GetTensorMutableData(const_cast<OrtValue*>(tensor), &data));
  input.data = data;
  return input;
}

Problem ms_deform_attn_problem(const std::vector<Input>& inputs) {
  const Input &value = inputs[0], &logits = inputs[4];
  Problem problem{};
  set_value(problem, value, inputs[1]);
  set_points(problem, inputs[2], inputs[3], value);
  const int64_t points = int64_t{problem.levels} * problem.points;
  require_sizes("attention_logits", logits, {problem.batch, problem.queries, problem.heads, points},
                value);
  problem.weights = logits.data;
  problem.weights_exact = problem.weights_are_logits = true;
  problem.weights_head_stride = points;
  problem.weights_query_stride = points * problem.heads;
  problem.weights_image_stride = problem.weights_query_stride * problem.queries;
  return problem;
}

Problem key_aware_deform_attn_problem(const std::vector<Input>& inputs,
                                      const Attributes& attributes) {
  const Input &query = inputs[0], &key = inputs[1], &value = inputs[2];
  Problem problem{};
  set_value(problem, value, inputs[3]);
  set_points(problem, inputs[4], inputs[5], value);
  require_sizes("query", query, {problem.batch, problem.queries, problem.heads, problem.channels},
                value);
  problem.query = query.data;
  problem.scale = attributes.scale;
  problem.mask_outside = attributes.mask_outside;
  if (attributes.separate_key) {
    require_sizes("key", key, value.sizes, value);
    problem.key = key.data;
  }
  return problem;
}

}  // namespace lite_focus
