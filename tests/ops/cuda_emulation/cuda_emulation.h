// CUDA for a C++ compiler: the blocks of a kernel run one after another on the CPU, the threads of
// a block as coroutines that leave the processor where they wait for others.
//
// To show mistakes with barriers and shared memory, a warp runs as far as it can before the next
// one does, blocks take turns in the order of their threads, threads that wait for each other at
// different places are an error, and so is a write beyond the shared memory of the block, which is
// filled with NaN at first.
#pragma once

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#undef __device__
#undef __global__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)
#define __grid_constant__

using std::exp;
using std::max;
using std::min;

inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

namespace lite_focus {
namespace {

// What the kernels declare as shared memory; an H100 has this much for a block.
constexpr size_t kSharedBytes = 227 * 1024;
constexpr size_t kGuardBytes = 1024;
alignas(64) char memory[kSharedBytes + kGuardBytes];

}  // namespace
}  // namespace lite_focus

namespace emulation {

constexpr unsigned kWarpSize = 32;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Additions of single numbers to global memory.
inline int64_t atomic_additions = 0;

// Zero: blocks and threads in order, every other block the other way round.
inline unsigned order_seed = 0;

inline int shared_bytes_of_device = int(lite_focus::kSharedBytes);

struct Barrier {
  unsigned size = kWarpSize;
  unsigned arrived = 0;
  int64_t passed = 0;
};

struct Warp {
  Barrier sync;
  Barrier shuffle;
  char slot[2][kWarpSize][16];
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool ended = false;
  const Barrier* waits_for = nullptr;
  int64_t must_pass = 0;
  bool gives_way = false;
  int shuffles = 0;

  bool can_run() const {
    return !ended && (waits_for == nullptr || waits_for->passed >= must_pass);
  }
};

class Block {
 public:
  // False: threads wait for others that have ended or wait elsewhere.
  bool run(unsigned size, bool descending, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    barrier_ = {size};
    warps_.assign((size + kWarpSize - 1) / kWarpSize, Warp());
    threads_.resize(std::max<size_t>(threads_.size(), size));
    for (unsigned i = 0; i < size; ++i) {
      start(threads_[i]);
    }
    const unsigned warps = static_cast<unsigned>(warps_.size());
    for (bool progress = true; progress;) {
      progress = false;
      for (unsigned i = 0; i < warps; ++i) {
        const unsigned first = (descending ? warps - 1 - i : i) * kWarpSize;
        while (run_one(first, std::min(first + kWarpSize, size), descending)) {
          progress = true;
        }
      }
    }
    return std::all_of(threads_.begin(), threads_.begin() + size,
                       [](const Thread& thread) { return thread.ended; });
  }

  Thread& thread() { return threads_[threadIdx.x]; }
  Warp& warp() { return warps_[threadIdx.x / kWarpSize]; }
  Barrier& barrier() { return barrier_; }

  void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.size) {
      barrier.arrived = 0;
      ++barrier.passed;
    } else {
      thread().waits_for = &barrier;
      thread().must_pass = barrier.passed + 1;
    }
    swapcontext(&thread().context, &scheduler_);
    thread().waits_for = nullptr;
  }

  void give_way() {
    thread().gives_way = true;
    swapcontext(&thread().context, &scheduler_);
  }

 private:
  // Runs the first of these threads that can. False: there is none.
  bool run_one(unsigned first, unsigned end, bool descending) {
    bool gave_way = false;
    for (unsigned i = first; i < end; ++i) {
      threadIdx.x = descending ? first + end - 1 - i : i;
      if (thread().can_run() && !thread().gives_way) {
        swapcontext(&scheduler_, &thread().context);
        return true;
      }
      gave_way |= std::exchange(thread().gives_way, false);
    }
    return gave_way;
  }

  void start(Thread& thread) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler_;
    thread.ended = false;
    thread.waits_for = nullptr;
    thread.gives_way = false;
    thread.shuffles = 0;
    makecontext(&thread.context, &Block::run_thread, 0);
  }
  static void run_thread();

  const std::function<void()>* kernel_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Barrier barrier_;
  ucontext_t scheduler_;
};

inline Block block;

inline void Block::run_thread() {
  (*block.kernel_)();
  block.thread().ended = true;
}

}  // namespace emulation

inline void __syncthreads() { emulation::block.wait(emulation::block.barrier()); }
inline void __syncwarp() { emulation::block.wait(emulation::block.warp().sync); }

// Two sets of slots: nobody can be two exchanges ahead of another.
template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance, int) {
  emulation::Warp& warp = emulation::block.warp();
  const unsigned lane = threadIdx.x % emulation::kWarpSize;
  auto& slots = warp.slot[emulation::block.thread().shuffles++ % 2];
  std::memcpy(slots[lane], &value, sizeof(T));
  emulation::block.wait(warp.shuffle);
  std::memcpy(&value, slots[lane ^ distance], sizeof(T));
  return value;
}

template <typename T>
T atomicAdd(T* target, T value) {
  emulation::atomic_additions += std::is_floating_point_v<T>;
  const T before = *target;
  *target += value;
  return before;
}

template <typename T>
T atomicMax(T* target, T value) {
  const T before = *target;
  *target = std::max(before, value);
  return before;
}

inline int __ffs(int x) { return __builtin_ffs(x); }

// Others come first, so that what the caller has seen is out of date at times.
inline unsigned atomicCAS(unsigned* target, unsigned expected, unsigned value) {
  emulation::block.give_way();
  const unsigned before = *target;
  *target = before == expected ? value : before;
  return before;
}

extern "C" inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= emulation::shared_bytes_of_device ? cudaSuccess : cudaErrorInvalidValue;
}

extern "C" inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

extern "C" inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::shared_bytes_of_device;
  return cudaSuccess;
}

extern "C" inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchTimeout ? "threads wait for others that do not come"
                                         : "invalid use of the device";
}

extern "C" inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}

namespace emulation {

// The blocks of a grid, in the order of the seed.
inline std::vector<uint3> blocks_of(const dim3& grid) {
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blocks.push_back({x, y, z});
      }
    }
  }
  if (order_seed != 0) {
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(order_seed));
  }
  return blocks;
}

}  // namespace emulation

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  using lite_focus::memory;
  const size_t bytes = config->dynamicSmemBytes;
  const unsigned threads = config->blockDim.x;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (bytes > size_t(emulation::shared_bytes_of_device) || gridDim.x == 0 || gridDim.y > 65535 ||
      gridDim.z > 65535 || threads > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  unsigned index = emulation::order_seed;
  for (const uint3& block : emulation::blocks_of(gridDim)) {
    blockIdx = block;
    std::memset(memory, 0xff, bytes + lite_focus::kGuardBytes);
    const bool descending = index++ % 2 == 1;
    const bool ended = emulation::block.run(threads, descending, [&] { kernel(arguments...); });
    const bool intact = std::all_of(memory + bytes, memory + bytes + lite_focus::kGuardBytes,
                                    [](char byte) { return byte == char(0xff); });
    if (!ended || !intact) {
      return ended ? cudaErrorIllegalAddress : cudaErrorLaunchTimeout;
    }
  }
  return cudaSuccess;
}
