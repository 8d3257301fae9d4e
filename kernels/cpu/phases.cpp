#include "cpu/phases.h"

#include <pthread.h>

#include "cpu/threads.h"

namespace lite_focus {
namespace {

// Those of the standard library would bind the binary to the newest version of it.
class Mutex {
 public:
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }
  void wait() { pthread_cond_wait(&changed_, &mutex_); }
  void notify_all() { pthread_cond_broadcast(&changed_); }

 private:
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed_ = PTHREAD_COND_INITIALIZER;
};

class Queue {
 public:
  explicit Queue(const std::vector<Phase>& phases) : phases_(phases) { start(0); }

  // Takes tasks until all phases are done. One thread alone gets through as well: it waits only for
  // tasks that another one is at.
  void work() {
    mutex_.lock();
    while (phase_ < phases_.size()) {
      const Phase& phase = phases_[phase_];
      if (next_ == phase.tasks) {
        mutex_.wait();
        continue;
      }
      const int64_t task = next_++;
      mutex_.unlock();
      phase.run(task);
      mutex_.lock();
      if (--left_ == 0) {
        start(phase_ + 1);
        mutex_.notify_all();
      }
    }
    mutex_.unlock();
  }

 private:
  void start(size_t phase) {
    phase_ = phase;
    next_ = 0;
    left_ = phase < phases_.size() ? phases_[phase].tasks : 0;
  }

  const std::vector<Phase>& phases_;
  Mutex mutex_;
  size_t phase_;
  int64_t next_;  // task that nobody has taken
  int64_t left_;  // tasks that are not done
};

}  // namespace

// A parallel_for for each phase would do the same, but its threads spin at the end of each: on a
// machine with other work they do so while the thread that they wait for is not running.
void run_phases(const std::vector<Phase>& phases) {
  Queue queue(phases);
  parallel_for(0, num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      queue.work();
    }
  });
}

}  // namespace lite_focus
