// In the place of PyTorch's header: its threads are OpenMP's, whose library is not compiled for the
// sanitizer, which would take what it hands over for races.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

namespace torch::stable {

inline int64_t get_num_threads() { return 3; }

template <typename Function>
void parallel_for(int64_t begin, int64_t end, int64_t, const Function& function) {
  const int64_t count = get_num_threads();
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = begin + (end - begin) * i / count;
    const int64_t last = begin + (end - begin) * (i + 1) / count;
    if (first < last) {
      threads.emplace_back([&function, first, last] { function(first, last); });
    }
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace torch::stable
