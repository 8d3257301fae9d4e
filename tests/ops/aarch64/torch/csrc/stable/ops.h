// In the place of PyTorch's header, so that the kernels compile for a processor without PyTorch:
// one thread that does the work of three.
#pragma once

#include <cstdint>

namespace torch::stable {

inline int64_t get_num_threads() { return 3; }

template <typename Function>
void parallel_for(int64_t begin, int64_t end, int64_t, const Function& function) {
  function(begin, end);
}

}  // namespace torch::stable
