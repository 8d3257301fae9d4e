// Work whose parts depend on each other.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace lite_focus {

// Tasks 0 to `tasks` - 1, at least one, in any order and at the same time.
struct Phase {
  int64_t tasks;
  std::function<void(int64_t)> run;  // does not throw
};

// Runs the phases one after the other with the threads of threads.h.
void run_phases(const std::vector<Phase>& phases);

}  // namespace lite_focus
