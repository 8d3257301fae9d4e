// Results of the C interface of ONNX Runtime as exceptions.
#pragma once

#include <onnxruntime_c_api.h>

#include <stdexcept>
#include <string>

namespace lite_focus {

inline void throw_status(const OrtApi& api, OrtStatus* status) {
  if (status != nullptr) {
    const std::string message = api.GetErrorMessage(status);
    api.ReleaseStatus(status);
    throw std::runtime_error(message);
  }
}

}  // namespace lite_focus
