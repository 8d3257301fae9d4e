#include "cpu/schedule.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/phases.h"
#include "cpu/sampling.h"
#include "cpu/threads.h"

namespace lite_focus {
namespace {

// Queries that are worth a thread.
constexpr int64_t kGrain = 32;
// A head is copied before use when its pixels are read this many times on average.
constexpr int64_t kReuse = 8;
// That a backward works on at a time, which bounds its memory for any number of threads.
constexpr int64_t kMostHeads = 16;

using Select = Kernel (*)(Operator, const Problem&);

// The widest vectors of the processor, within the bound that PyTorch's own kernels obey.
Select best_select() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LITE_FOCUS_PORTABLE)
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

int64_t scratch_size(const Problem& problem) {
  return scratch_bytes(int64_t{problem.levels} * problem.points, problem.channels);
}

int64_t exact_bytes(const Problem& problem) { return problem.kind == ScalarKind::kDouble ? 8 : 4; }
int64_t value_bytes(const Problem& problem) {
  return problem.kind == ScalarKind::kBFloat16 || problem.kind == ScalarKind::kHalf
             ? 2
             : exact_bytes(problem);
}
int64_t map_bytes(const Problem& problem) {
  return problem.tokens * problem.channels * value_bytes(problem);
}
int64_t gradient_bytes(const Problem& problem) {
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

// Calls function(i, first, last) for the pieces of [begin, end) in rows of `length`.
template <typename Function>
void for_rows(int64_t begin, int64_t end, int64_t length, Function function) {
  while (begin < end) {
    const int64_t i = begin / length;
    const int64_t last = std::min(end, (i + 1) * length);
    function(i, begin - i * length, last - i * length);
    begin = last;
  }
}

// A kernel and its arguments.
struct Step {
  Operator name;
  Problem problem;
};

// The logits of key-aware attention with a key of its own, from one step to the next: in the tensor
// `items`, (B, Q, M, D), where those of an item fit into its row, else in memory of their own.
class Logits {
 public:
  Logits(const Problem& problem, void* items) {
    const int64_t unit = exact_bytes(problem);
    const int64_t count = int64_t{problem.levels} * problem.points;
    const int64_t row = problem.channels * value_bytes(problem);
    const bool fits = row % unit == 0 && row >= count * unit;
    head_stride_ = fits ? row / unit : count;
    if (!fits) {
      own_.emplace(problem.batch * problem.queries * problem.heads * count * unit);
    }
    memory_ = own_ ? own_->get() : items;
  }

  // The step that computes them.
  Step compute(const Problem& problem) const {
    Problem part = with_weights(problem);
    part.value = problem.key;
    part.attention = memory_;
    part.grad_output = part.grad_value = part.grad_query = part.grad_sampling = nullptr;
    return {Operator::kKeyAwareDeformAttn, part};
  }

  // The step that has them as the logits of plain attention, whose gradients take their place.
  Step attend(Operator name, const Problem& problem) const {
    Problem part = with_weights(problem);
    part.key = part.query = part.grad_query = nullptr;
    part.weights_are_logits = true;
    part.grad_weights = memory_;
    return {name, part};
  }

  // The step from the gradients of the logits to those of query and key.
  Step differentiate(const Problem& problem) const {
    Problem part = with_weights(problem);
    part.value = problem.key;
    part.grad_value = problem.grad_key;
    part.grad_output = problem.query;
    part.output = problem.grad_query;
    part.query = part.grad_query = nullptr;
    return {Operator::kKeyAwareDeformAttnBackward, part};
  }

 private:
  Problem with_weights(const Problem& problem) const {
    Problem part = problem;
    part.weights = memory_;
    part.weights_exact = true;
    part.weights_head_stride = head_stride_;
    part.weights_query_stride = head_stride_ * problem.heads;
    part.weights_image_stride = part.weights_query_stride * problem.queries;
    return part;
  }

  int64_t head_stride_;
  void* memory_;
  std::optional<Buffer> own_;
};

bool is_reused(const Problem& problem) {
  const int64_t reads = problem.queries * problem.levels * problem.points * 4;
  return reads >= kReuse * problem.tokens;
}

// A step without gradients of maps, all heads of a query together.
void run_queries(const Step& step) {
  const Problem& problem = step.problem;
  const Kernel kernel = select(step.name, problem);
  parallel_for(0, problem.batch * problem.queries, kGrain, [&](int64_t begin, int64_t end) {
    const Buffer scratch(scratch_size(problem));
    for_rows(begin, end, problem.queries, [&](int64_t image, int64_t first, int64_t last) {
      kernel(image_of(problem, image), {first, last, 0, problem.heads}, scratch.get());
    });
  });
}

// Heads that are worked on at a time, in memory of their own without gaps: neighbouring pixels of a
// head are otherwise a multiple of 1 KB apart and compete for few sets of the cache and entries of
// the TLB. All threads share the copy of a head. Its queries are divided into parts, each of which
// sums the gradients of the head in the order of the queries; then the parts are added.
class PackedHeads {
 public:
  PackedHeads(const Problem& problem, int64_t heads, int64_t parts, bool gradients)
      : parts_(parts),
        scratch_bytes_(scratch_size(problem)),
        copies_(heads * map_bytes(problem)),
        sums_(gradients ? heads * parts * gradient_bytes(problem) : 0),
        scratch_(heads * parts * scratch_bytes_) {}

  // Appends a step for heads [first, first + count) of all images; there is memory for `count`.
  void append_step(const Step& step, int64_t first, int64_t count,
                   std::vector<Phase>& phases) const {
    const Problem& problem = step.problem;
    const int64_t threads = num_threads();
    const int64_t pixels = count * problem.tokens;
    const auto for_pixels = [=, &problem](int64_t share, const auto& function) {
      for_rows(pixels * share / threads, pixels * (share + 1) / threads, problem.tokens, function);
    };
    phases.push_back({threads, [=, &problem](int64_t share) {
                        for_pixels(share, [&](int64_t i, int64_t begin, int64_t end) {
                          pack(problem, first, i, begin, end);
                        });
                      }});
    phases.push_back({count * parts_, [=, &step](int64_t task) {
                        compute(step, first, task / parts_, task % parts_);
                      }});
    if (problem.grad_value != nullptr) {
      phases.push_back({threads, [=, &problem](int64_t share) {
                          for_pixels(share, [&](int64_t i, int64_t begin, int64_t end) {
                            problem.kind == ScalarKind::kDouble
                                ? unpack<double>(problem, first, i, begin, end)
                                : unpack<float>(problem, first, i, begin, end);
                          });
                        }});
    }
  }

 private:
  char* copy(const Problem& problem, int64_t i) const {
    return copies_.get() + i * map_bytes(problem);
  }
  char* sum(const Problem& problem, int64_t i, int64_t part) const {
    return sums_.get() + (i * parts_ + part) * gradient_bytes(problem);
  }
  static int64_t offset_of(const Problem& problem, int64_t head) {
    return head / problem.heads * problem.batch_stride + head % problem.heads * problem.head_stride;
  }

  // Pixels [begin, end) of head first + i.
  void pack(const Problem& problem, int64_t first, int64_t i, int64_t begin, int64_t end) const {
    const int64_t unit = value_bytes(problem);
    const int64_t row = problem.channels * unit;
    const char* map =
        static_cast<const char*>(problem.value) + offset_of(problem, first + i) * unit;
    char* target = copy(problem, i);
    for (int64_t s = begin; s < end; ++s) {
      std::memcpy(target + s * row, map + s * problem.token_stride * unit, row);
    }
  }

  void compute(const Step& step, int64_t first, int64_t i, int64_t part) const {
    Problem image = image_of(step.problem, (first + i) / step.problem.heads);
    const auto head = static_cast<int32_t>((first + i) % image.heads);
    image.value = copy(image, i);
    image.key = image.key == nullptr ? nullptr : image.value;
    image.token_stride = image.channels;
    image.head_stride = 0;
    if (image.grad_value != nullptr) {
      image.grad_value = sum(image, i, part);
      std::memset(image.grad_value, 0, gradient_bytes(image));
    }
    const Range range = {image.queries * part / parts_, image.queries * (part + 1) / parts_, head,
                         head + 1};
    char* scratch = scratch_.get() + (i * parts_ + part) * scratch_bytes_;
    select(step.name, image)(image, range, scratch);
  }

  template <typename Scalar>
  void unpack(const Problem& problem, int64_t first, int64_t i, int64_t begin, int64_t end) const {
    const int64_t channels = problem.channels;
    Scalar* map = static_cast<Scalar*>(problem.grad_value) + offset_of(problem, first + i);
    const auto* rows = reinterpret_cast<const Scalar*>(sum(problem, i, 0));
    for (int64_t s = begin; s < end; ++s) {
      Scalar* target = map + s * problem.token_stride;
      const Scalar* row = rows + s * channels;
      std::memcpy(target, row, channels * sizeof(Scalar));
      for (int64_t part = 1; part < parts_; ++part) {
        row += problem.tokens * channels;
        for (int64_t d = 0; d < channels; ++d) {
          target[d] += row[d];
        }
      }
    }
  }

  int64_t parts_;
  int64_t scratch_bytes_;
  Buffer copies_;
  Buffer sums_;
  Buffer scratch_;
};

// All steps for `group` heads at a time.
void run_heads(const std::vector<Step>& steps, int64_t group, int64_t parts, bool gradients) {
  const Problem& problem = steps.front().problem;
  const int64_t heads = problem.batch * problem.heads;
  const PackedHeads packed(problem, std::min(group, heads), parts, gradients);
  std::vector<Phase> phases;
  for (int64_t first = 0; first < heads; first += group) {
    for (const Step& step : steps) {
      packed.append_step(step, first, std::min(group, heads - first), phases);
    }
  }
  run_phases(phases);
}

void run_forward(Operator name, const Problem& problem) {
  std::vector<Step> steps;
  std::optional<Logits> logits;
  if (problem.key == nullptr) {
    steps = {{name, problem}};
  } else {
    logits.emplace(problem, problem.output);
    steps = {logits->compute(problem), logits->attend(Operator::kMsDeformAttn, problem)};
  }
  if (is_reused(problem)) {
    run_heads(steps, 1, num_threads(), false);
  } else {
    for (const Step& step : steps) {
      run_queries(step);
    }
  }
}

// The gradients are summed in the same order whatever the number of threads: no atomics are needed,
// and the result is the same to the bit.
void run_backward(Operator name, const Problem& problem) {
  std::vector<Step> steps;
  std::optional<Logits> logits;
  if (problem.key == nullptr) {
    steps = {{name, problem}};
  } else {
    logits.emplace(problem, problem.grad_query);
    steps = {logits->compute(problem), logits->attend(Operator::kMsDeformAttnBackward, problem),
             logits->differentiate(problem)};
  }
  // Two threads at one head need less memory than two threads with a head each, and an image of 8
  // heads has work for 16 threads. The few queries of a decoder are less work than a second sum.
  const int64_t parts = problem.query == nullptr && !is_reused(problem) ? 1 : 2;
  const int64_t group = (num_threads() + parts - 1) / parts;
  run_heads(steps, std::min(group, kMostHeads), parts, true);
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
