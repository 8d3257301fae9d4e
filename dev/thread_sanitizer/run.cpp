// Every operator of the CPU from several threads at once, each of which starts threads of its own:
// for the thread sanitizer, which ends the program at the first race. See sanitize_operators.sh.
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>

#include "cpu/schedule.h"

namespace lite_focus {

namespace {

using Floats = std::vector<float>;

Floats numbers(int64_t count) {
  Floats floats(count);
  for (int64_t i = 0; i < count; ++i) {
    floats[i] = float(0.5 + 0.6 * std::sin(double(i * i % 1009)));
  }
  return floats;
}

// All results of a call for float32 on two images with two heads and levels of 4 x 5 and 2 x 3.
Floats results(Operator name, bool separate, int64_t queries, int32_t channels) {
  const bool key_aware = name >= Operator::kKeyAwareDeformAttn;
  const bool backward =
      name == Operator::kMsDeformAttnBackward || name == Operator::kKeyAwareDeformAttnBackward;
  Problem problem{};
  problem.batch = problem.heads = problem.levels = problem.point_levels = 2;
  problem.points = 4;
  problem.tokens = 26;
  problem.queries = queries;
  problem.channels = channels;
  problem.level[0] = {4, 5, 0};
  problem.level[1] = {2, 3, 20};
  problem.kind = ScalarKind::kFloat;
  problem.sampling_exact = problem.weights_exact = true;
  problem.scale = 0.25;
  problem.head_stride = channels;
  problem.token_stride = int64_t{2} * channels;
  problem.batch_stride = problem.token_stride * problem.tokens;
  problem.weights_head_stride = 8;
  problem.weights_query_stride = 16;
  problem.weights_image_stride = 16 * queries;
  const int64_t map = 2 * problem.batch_stride, points = 32 * queries;
  const int64_t items = 4 * queries * channels;
  const Floats value = numbers(map), key = numbers(map), query = numbers(items);
  const Floats sampling = numbers(2 * points), weights = numbers(points);
  Floats output(items), grad_value(map), grad_key(map), grad_query(items);
  Floats grad_sampling(2 * points), grad_weights(points);
  problem.value = value.data();
  problem.key = separate ? key.data() : nullptr;
  problem.query = key_aware ? query.data() : nullptr;
  problem.sampling = sampling.data();
  problem.weights = key_aware ? nullptr : weights.data();
  if (backward) {
    problem.grad_output = query.data();
    problem.grad_value = grad_value.data();
    problem.grad_key = separate ? grad_key.data() : nullptr;
    problem.grad_query = key_aware ? grad_query.data() : nullptr;
    problem.grad_sampling = grad_sampling.data();
    problem.grad_weights = key_aware ? nullptr : grad_weights.data();
  } else {
    problem.output = output.data();
  }
  run_on_cpu(name, problem);
  for (const Floats* part : {&grad_value, &grad_key, &grad_query, &grad_sampling, &grad_weights}) {
    output.insert(output.end(), part->begin(), part->end());
  }
  return output;
}

std::vector<Floats> all_results() {
  std::vector<Floats> all;
  for (const int64_t queries : {1, 70}) {
    for (const int32_t channels : {3, 16, 32}) {
      for (const bool separate : {false, true}) {
        for (const Operator name :
             {Operator::kMsDeformAttn, Operator::kMsDeformAttnBackward,
              Operator::kKeyAwareDeformAttn, Operator::kKeyAwareDeformAttnBackward}) {
          if (!separate || name >= Operator::kKeyAwareDeformAttn) {
            all.push_back(results(name, separate, queries, channels));
          }
        }
      }
    }
  }
  return all;
}

}  // namespace
}  // namespace lite_focus

int main() {
  constexpr int kCallers = 4;
  std::vector<std::vector<lite_focus::Floats>> found(kCallers);
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&found, i] { found[i] = lite_focus::all_results(); });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  for (const auto& results : found) {
    if (results != found[0]) {
      std::puts("threads that call at once get different results");
      return 1;
    }
  }
  std::printf("%d threads, %zu calls each: no race\n", kCallers, found[0].size());
  return 0;
}
