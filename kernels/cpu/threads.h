// The threads that the operators run on: those of PyTorch in torch_threads.cpp, those of ONNX
// Runtime in onnxruntime/threads.cpp.
#pragma once

#include <cstdint>
#include <functional>

namespace lite_focus {

// How many threads `parallel_for` takes at most.
int64_t num_threads();

// Calls function(first, last) for pieces of [begin, end) of about `grain` or more, in any order and
// at the same time; returns when all are done.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& function);

}  // namespace lite_focus
