// The operators of files of the dialect `native` as custom operators of ONNX Runtime: the same
// names and inputs as in export/python_operators.py.
#include <onnxruntime_c_api.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/schedule.h"
#include "onnxruntime/inputs.h"
#include "onnxruntime/status.h"
#include "onnxruntime/threads.h"

namespace lite_focus {
namespace {

constexpr const char* kDomain = "ai.onnx.contrib";

// One of the operators; ONNX Runtime sees its base.
struct CustomOperator : OrtCustomOp {
  CustomOperator(const char* name, Operator kind, size_t inputs, size_t spatial_shapes);

  const char* name;
  Operator kind;
  size_t inputs;
  size_t spatial_shapes;  // which input that is, the one of integers
};

// A node of a file.
struct Node {
  const OrtApi* api;
  const CustomOperator* custom;
  Attributes attributes;
};

const CustomOperator& of(const OrtCustomOp* custom) {
  return *static_cast<const CustomOperator*>(custom);
}

// The result of a function that may throw; nothing else may leave the library.
template <typename Function>
OrtStatus* status_of(const OrtApi& api, const char* name, Function function) noexcept {
  try {
    try {
      function();
      return nullptr;
    } catch (const std::invalid_argument& error) {
      return api.CreateStatus(ORT_INVALID_ARGUMENT,
                              (std::string(name) + ": " + error.what()).c_str());
    } catch (const std::exception& error) {
      return api.CreateStatus(ORT_FAIL, (std::string(name) + ": " + error.what()).c_str());
    }
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, name);
  }
}

Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info) {
  Attributes attributes{};
  int64_t mask_outside = 0, separate_key = 0;
  throw_status(api, api.KernelInfoGetAttribute_float(info, "scale", &attributes.scale));
  throw_status(api, api.KernelInfoGetAttribute_int64(info, "mask_outside", &mask_outside));
  throw_status(api, api.KernelInfoGetAttribute_int64(info, "separate_key", &separate_key));
  attributes.mask_outside = mask_outside != 0;
  attributes.separate_key = separate_key != 0;
  return attributes;
}

void compute(const Node& node, OrtKernelContext* context) {
  const OrtApi& api = *node.api;
  std::vector<Input> inputs;
  for (size_t i = 0; i < node.custom->inputs; ++i) {
    inputs.push_back(read_input(api, context, i));
  }
  Problem problem = node.custom->kind == Operator::kMsDeformAttn
                        ? ms_deform_attn_problem(inputs)
                        : key_aware_deform_attn_problem(inputs, node.attributes);
  const Sizes sizes = {problem.batch, problem.queries, problem.token_stride};
  OrtValue* output = nullptr;
  throw_status(api, api.KernelContext_GetOutput(context, 0, sizes.data(), sizes.size(), &output));
  throw_status(api, api.GetTensorMutableData(output, &problem.output));
  const SessionThreads threads(api, context);
  run_on_cpu(node.custom->kind, problem);
}

OrtStatus* create_node(const OrtCustomOp* custom, const OrtApi* api, const OrtKernelInfo* info,
                       void** node) {
  return status_of(*api, of(custom).name, [=] {
    auto made = std::make_unique<Node>(Node{api, &of(custom), {}});
    if (of(custom).kind == Operator::kKeyAwareDeformAttn) {
      made->attributes = read_attributes(*api, info);
    }
    *node = made.release();
  });
}

OrtStatus* compute_node(void* pointer, OrtKernelContext* context) {
  const Node& node = *static_cast<const Node*>(pointer);
  return status_of(*node.api, node.custom->name, [&] { compute(node, context); });
}

CustomOperator::CustomOperator(const char* name, Operator kind, size_t inputs,
                               size_t spatial_shapes)
    : OrtCustomOp{}, name(name), kind(kind), inputs(inputs), spatial_shapes(spatial_shapes) {
  version = ORT_API_VERSION;
  GetName = [](const OrtCustomOp* custom) { return of(custom).name; };
  GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  GetInputTypeCount = [](const OrtCustomOp* custom) { return of(custom).inputs; };
  GetInputType = [](const OrtCustomOp* custom, size_t index) {
    return index == of(custom).spatial_shapes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                                              : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  CreateKernelV2 = &create_node;
  KernelComputeV2 = &compute_node;
  KernelDestroy = [](void* node) { delete static_cast<Node*>(node); };
}

// What sessions keep pointers to; it lives as long as the library.
const CustomOperator kMultiScale("LiteFocusDeformableAttention", Operator::kMsDeformAttn, 5, 1);
const CustomOperator kKeyAware("LiteFocusKeyAwareDeformableAttention",
                               Operator::kKeyAwareDeformAttn, 6, 3);

OrtCustomOpDomain* make_domain(const OrtApi& api) {
  OrtCustomOpDomain* domain = nullptr;
  throw_status(api, api.CreateCustomOpDomain(kDomain, &domain));
  throw_status(api, api.CustomOpDomain_Add(domain, &kMultiScale));
  throw_status(api, api.CustomOpDomain_Add(domain, &kKeyAware));
  return domain;
}

}  // namespace
}  // namespace lite_focus

// What ONNX Runtime calls in a library of custom operators.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // An older ONNX Runtime, whose oldest interface can still say so.
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "the operators of lite_focus_detr need ONNX Runtime 1.21 or later");
  }
  return lite_focus::status_of(*api, "lite_focus_detr", [=] {
    static OrtCustomOpDomain* const domain = lite_focus::make_domain(*api);
    lite_focus::throw_status(*api, api->AddCustomOpDomain(options, domain));
  });
}
