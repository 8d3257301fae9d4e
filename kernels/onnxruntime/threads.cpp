#include "onnxruntime/threads.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "cpu/threads.h"
#include "onnxruntime/status.h"

namespace lite_focus {
namespace {

// Null where there is no session, or where the thread is already one of several.
thread_local const OrtApi* current_api = nullptr;
thread_local const OrtKernelContext* current_context = nullptr;

// What the threads of a parallel_for share.
struct Loop {
  int64_t begin, end, pieces;
  const std::function<void(int64_t, int64_t)>& function;
  std::atomic<bool> out_of_memory{false};

  // An exception must not reach ONNX Runtime. Pieces have one, and to hand over any would take
  // symbols of a new standard library.
  static void run(void* loop, size_t piece) noexcept {
    static_cast<Loop*>(loop)->run_piece(static_cast<int64_t>(piece));
  }

  void run_piece(int64_t piece) noexcept {
    const int64_t length = end - begin;
    try {
      function(begin + length * piece / pieces, begin + length * (piece + 1) / pieces);
    } catch (...) {
      out_of_memory = true;
    }
  }
};

}  // namespace

SessionThreads::SessionThreads(const OrtApi& api, const OrtKernelContext* context)
    : outer_api_(current_api), outer_context_(current_context) {
  current_api = &api;
  current_context = context;
}

SessionThreads::~SessionThreads() {
  current_api = outer_api_;
  current_context = outer_context_;
}

// ONNX Runtime does not tell how many threads a session has. With fewer of them each takes more
// pieces, one after the other.
int64_t num_threads() {
  static const int64_t processors = std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN));
  return current_context == nullptr ? 1 : processors;
}

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& function) {
  if (begin >= end) {
    return;
  }
  const int64_t most = (end - begin + grain - 1) / grain;
  const int64_t pieces = std::min(num_threads(), most);
  if (pieces == 1) {
    function(begin, end);
    return;
  }
  const OrtApi& api = *current_api;
  const OrtKernelContext* context = current_context;
  Loop loop{begin, end, pieces, function};
  {
    // This thread takes pieces as well; a parallel_for within them runs on it alone.
    const SessionThreads none(api, nullptr);
    throw_status(api, api.KernelContext_ParallelFor(context, &Loop::run, pieces, 0, &loop));
  }
  if (loop.out_of_memory) {
    throw std::bad_alloc();
  }
}

}  // namespace lite_focus
