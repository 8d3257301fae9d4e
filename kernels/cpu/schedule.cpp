#include "cpu/schedule.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string_view>

#include "cpu/kernels.h"
#include "cpu/sampling.h"

namespace lite_focus {
namespace {

// Queries that are worth a thread.
constexpr int64_t kGrain = 32;
// A head is copied before use when its pixels are read this many times on average.
constexpr int64_t kReuse = 8;

using Select = Kernel (*)(Operator, const Problem&);

// The widest vectors of the processor, within the bound that PyTorch's own kernels obey.
Select best_select() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view bound = variable == nullptr ? "" : variable;
  const bool avx2_fits = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  const bool avx512_fits = __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2_fits && avx512_fits && bound != "avx2" && bound != "default") {
    return &avx512::select;
  }
  if (avx2_fits && bound != "default") {
    return &avx2::select;
  }
#endif
  return &portable::select;
}

Kernel select(Operator name, const Problem& problem) {
  static const Select best = best_select();
  return best(name, problem);
}

class Buffer {
 public:
  explicit Buffer(int64_t bytes) : memory_(std::aligned_alloc(64, (bytes + 64) / 64 * 64)) {
    if (memory_ == nullptr) {
      throw std::bad_alloc();
    }
  }
  char* get() const { return static_cast<char*>(memory_.get()); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
};

Buffer make_scratch(const Problem& problem) {
  return Buffer(scratch_bytes(int64_t{problem.levels} * problem.points, problem.channels));
}

int64_t exact_bytes(const Problem& problem) { return problem.kind == ScalarKind::kDouble ? 8 : 4; }
int64_t value_bytes(const Problem& problem) {
  return problem.kind == ScalarKind::kBFloat16 || problem.kind == ScalarKind::kHalf
             ? 2
             : exact_bytes(problem);
}
int64_t head_bytes(const Problem& problem) {
  return problem.tokens * problem.channels * value_bytes(problem);
}
int64_t head_gradient_bytes(const Problem& problem) {
  return problem.tokens * problem.channels * exact_bytes(problem);
}

template <typename Pointer>
void advance(Pointer*& pointer, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<Pointer>, const char, char>;
  if (pointer != nullptr) {
    pointer = static_cast<Byte*>(pointer) + bytes;
  }
}

// The same problem for one image only.
Problem image_of(const Problem& problem, int64_t image) {
  Problem part = problem;
  const int64_t exact = exact_bytes(problem);
  const int64_t stored = value_bytes(problem);
  const int64_t sampling = problem.sampling_exact ? exact : stored;
  const int64_t weights = problem.weights_exact ? exact : stored;
  const int64_t maps = image * problem.batch_stride;
  const int64_t rows = image * problem.queries;
  const int64_t items = rows * problem.heads;
  const int64_t points = items * problem.point_levels * problem.points * 2;
  const int64_t references = rows * problem.levels * problem.reference_size;
  part.batch = 1;
  advance(part.value, maps * stored);
  advance(part.key, maps * stored);
  advance(part.query, items * problem.channels * stored);
  advance(part.reference, references * exact);
  advance(part.sampling, points * sampling);
  advance(part.weights, image * problem.weights_image_stride * weights);
  advance(part.output, items * problem.channels * stored);
  advance(part.attention, image * problem.weights_image_stride * exact);
  advance(part.grad_output, items * problem.channels * stored);
  advance(part.grad_value, maps * exact);
  advance(part.grad_key, maps * exact);
  advance(part.grad_query, items * problem.channels * stored);
  advance(part.grad_reference, references * problem.heads * exact);
  advance(part.grad_sampling, points * sampling);
  advance(part.grad_weights, image * problem.weights_image_stride * weights);
  return part;
}

// A head from or to the tensor with all heads.
void pack(const Problem& problem, const void* maps, int head, char* target) {
  const int64_t unit = value_bytes(problem);
  const int64_t bytes = problem.channels * unit;
  const char* source = static_cast<const char*>(maps) + head * problem.head_stride * unit;
  for (int64_t s = 0; s < problem.tokens; ++s) {
    std::memcpy(target + s * bytes, source + s * problem.token_stride * unit, bytes);
  }
}

void unpack_gradient(const Problem& problem, const char* source, int head, void* maps) {
  const int64_t unit = exact_bytes(problem);
  const int64_t bytes = problem.channels * unit;
  char* target = static_cast<char*>(maps) + head * problem.head_stride * unit;
  for (int64_t s = 0; s < problem.tokens; ++s) {
    std::memcpy(target + s * problem.token_stride * unit, source + s * bytes, bytes);
  }
}

// One head of value and key, in memory of its own without gaps. Neighbouring pixels of a head are
// otherwise a multiple of 1 KB apart and compete for few sets of the cache.
Problem packed(const Problem& image, char* value, char* key) {
  Problem part = image;
  part.value = value;
  part.key = key;
  part.token_stride = image.channels;
  part.head_stride = 0;
  return part;
}

void run_queries(Operator name, const Problem& problem) {
  const Kernel kernel = select(name, problem);
  torch::stable::parallel_for(
      0, problem.batch * problem.queries, kGrain, [&](int64_t begin, int64_t end) {
        const Buffer scratch = make_scratch(problem);
        while (begin < end) {
          const int64_t image = begin / problem.queries;
          const int64_t start = image * problem.queries;
          const int64_t stop = std::min(end, start + problem.queries);
          kernel(image_of(problem, image), {begin - start, stop - start, 0, problem.heads},
                 scratch.get());
          begin = stop;
        }
      });
}

bool is_reused(const Problem& problem) {
  const int64_t reads = problem.queries * problem.levels * problem.points * 4;
  return reads >= kReuse * problem.tokens;
}

// Room for the attention weights between the two steps of an operator with a separate key: in the
// output, where an item fits, else in memory of its own.
class AttentionMemory {
 public:
  explicit AttentionMemory(const Problem& problem)
      : whole_(problem), fits_(item_bytes(problem) >= count(problem) * exact_bytes(problem)) {
    const int64_t unit = exact_bytes(problem);
    const int64_t stride = fits_ ? item_bytes(problem) / unit : count(problem);
    if (!fits_) {
      own_.emplace(problem.batch * problem.queries * problem.heads * stride * unit);
    }
    whole_.attention = fits_ ? problem.output : own_->get();
    whole_.weights_head_stride = stride;
    whole_.weights_query_stride = stride * problem.heads;
    whole_.weights_image_stride = whole_.weights_query_stride * problem.queries;
  }

  // The problem of the first step, which stores the weights.
  const Problem& first() const { return whole_; }

  // The problem of the second step, the weighted sum.
  static Problem second(const Problem& first) {
    Problem part = first;
    part.key = nullptr;
    part.weights = first.attention;
    part.weights_exact = true;
    part.weights_are_logits = false;
    return part;
  }

 private:
  static int64_t count(const Problem& problem) { return int64_t{problem.levels} * problem.points; }
  static int64_t item_bytes(const Problem& problem) {
    return problem.channels * value_bytes(problem);
  }

  Problem whole_;
  bool fits_;
  std::optional<Buffer> own_;
};

// Queries [begin, end) of a head, with a copy of that head of `maps`.
void run_packed(Operator name, const Problem& image, const void* maps, const Range& range,
                char* copy) {
  pack(image, maps, range.first_head, copy);
  const Problem part = packed(image, copy, image.key == nullptr ? nullptr : copy);
  const Buffer scratch = make_scratch(image);
  select(name, part)(part, range, scratch.get());
}

// A task is a head of an image, or a part of its queries when there are more threads than heads.
void run_heads(Operator name, const Problem& problem) {
  const bool separate_key = problem.key != nullptr;
  const int64_t heads = problem.batch * problem.heads;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = heads == 0 ? 1 : (threads + heads - 1) / heads;
  const int64_t length = (problem.queries + parts - 1) / parts;
  torch::stable::parallel_for(0, heads * parts, 1, [&](int64_t begin, int64_t end) {
    const Buffer copy(head_bytes(problem));
    for (int64_t i = begin; i < end; ++i) {
      const Problem image = image_of(problem, i / parts / problem.heads);
      const auto head = static_cast<int32_t>(i / parts % problem.heads);
      const int64_t first = i % parts * length;
      const Range range = {first, std::min(first + length, problem.queries), head, head + 1};
      if (separate_key) {
        run_packed(name, image, image.key, range, copy.get());
        const Problem sum = AttentionMemory::second(image);
        run_packed(Operator::kMsDeformAttn, sum, sum.value, range, copy.get());
      } else {
        run_packed(name, image, image.value, range, copy.get());
      }
    }
  });
}

void run_forward(Operator name, const Problem& problem) {
  if (problem.key == nullptr) {
    is_reused(problem) ? run_heads(name, problem) : run_queries(name, problem);
    return;
  }
  const AttentionMemory memory(problem);
  if (is_reused(problem)) {
    run_heads(name, memory.first());
  } else {
    run_queries(name, memory.first());
    run_queries(Operator::kMsDeformAttn, AttentionMemory::second(memory.first()));
  }
}

// A head is the work of one thread, which adds the gradients in the order of the queries: no
// atomics are needed, and the number of threads does not change the result.
void run_backward(Operator name, const Problem& problem) {
  const bool separate_key = problem.key != nullptr;
  const int64_t gradient_bytes = head_gradient_bytes(problem);
  torch::stable::parallel_for(0, problem.batch * problem.heads, 1, [&](int64_t begin, int64_t end) {
    const Buffer scratch = make_scratch(problem);
    const Buffer value(head_bytes(problem));
    const Buffer key(separate_key ? head_bytes(problem) : 0);
    const Buffer grad_value(gradient_bytes);
    const Buffer grad_key(separate_key ? gradient_bytes : 0);
    for (int64_t i = begin; i < end; ++i) {
      const Problem image = image_of(problem, i / problem.heads);
      const int head = static_cast<int>(i % problem.heads);
      Problem part = packed(image, value.get(), separate_key ? key.get() : nullptr);
      part.grad_value = grad_value.get();
      part.grad_key = grad_key.get();
      pack(image, image.value, head, value.get());
      std::memset(grad_value.get(), 0, gradient_bytes);
      if (separate_key) {
        pack(image, image.key, head, key.get());
        std::memset(grad_key.get(), 0, gradient_bytes);
      }
      select(name, part)(part, {0, image.queries, head, head + 1}, scratch.get());
      unpack_gradient(image, grad_value.get(), head, image.grad_value);
      if (separate_key) {
        unpack_gradient(image, grad_key.get(), head, image.grad_key);
      }
    }
  });
}

}  // namespace

void run_on_cpu(Operator name, const Problem& problem) {
  const bool backward =
      name == Operator::kMsDeformAttnBackward || name == Operator::kKeyAwareDeformAttnBackward;
  if (backward) {
    run_backward(name, problem);
  } else {
    run_forward(name, problem);
  }
}

}  // namespace lite_focus
