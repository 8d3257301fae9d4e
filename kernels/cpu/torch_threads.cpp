// The threads of PyTorch.
#include <torch/csrc/stable/ops.h>

#include "cpu/threads.h"

namespace lite_focus {

int64_t num_threads() { return torch::stable::get_num_threads(); }

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& function) {
  torch::stable::parallel_for(begin, end, grain, function);
}

}  // namespace lite_focus
