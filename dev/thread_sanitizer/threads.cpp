// In the place of PyTorch's threads: those are OpenMP's, whose library is not compiled for the
// sanitizer, which would take what it hands over for races.
#include "cpu/threads.h"

#include <thread>
#include <vector>

namespace lite_focus {

int64_t num_threads() { return 3; }

void parallel_for(int64_t begin, int64_t end, int64_t,
                  const std::function<void(int64_t, int64_t)>& function) {
  const int64_t count = num_threads();
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

}  // namespace lite_focus
