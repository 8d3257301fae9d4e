// The threads of a session of ONNX Runtime, for cpu/threads.h.
#pragma once

#include <onnxruntime_c_api.h>

namespace lite_focus {

// While one of these lives, operators that its thread computes share the threads of the session
// whose node `context` belongs to.
class SessionThreads {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext* context);
  ~SessionThreads();
  SessionThreads(const SessionThreads&) = delete;
  SessionThreads& operator=(const SessionThreads&) = delete;

 private:
  const OrtApi* outer_api_;
  const OrtKernelContext* outer_context_;
};

}  // namespace lite_focus
