// Computes one problem: sizes and float32 tensors come from the standard input, results go to the
// standard output; see test_aarch64.py.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/schedule.h"

namespace {

using Floats = std::vector<float>;

void read(void* target, size_t bytes) {
  if (std::fread(target, 1, bytes, stdin) != bytes) {
    std::exit(2);
  }
}

Floats read_floats(int64_t count) {
  Floats floats(count);
  read(floats.data(), count * sizeof(float));
  return floats;
}

void write(const Floats& floats) {
  std::fwrite(floats.data(), sizeof(float), floats.size(), stdout);
}

}  // namespace

int main() {
  using lite_focus::Operator;
  int64_t sizes[9];  // operator, B, S, Q, M, D, L, P, whether there is a key
  read(sizes, sizeof(sizes));
  const auto name = static_cast<Operator>(sizes[0]);
  lite_focus::Problem problem{};
  problem.batch = sizes[1];
  problem.tokens = sizes[2];
  problem.queries = sizes[3];
  problem.heads = int32_t(sizes[4]);
  problem.channels = int32_t(sizes[5]);
  problem.levels = problem.point_levels = int32_t(sizes[6]);
  problem.points = int32_t(sizes[7]);
  for (int l = 0, start = 0; l < problem.levels; ++l) {
    int64_t shape[2];
    read(shape, sizeof(shape));
    problem.level[l] = {int32_t(shape[0]), int32_t(shape[1]), start};
    start += int(shape[0] * shape[1]);
  }
  problem.kind = lite_focus::ScalarKind::kFloat;
  problem.sampling_exact = problem.weights_exact = true;
  problem.scale = 0.25;
  problem.head_stride = problem.channels;
  problem.token_stride = problem.head_stride * problem.heads;
  problem.batch_stride = problem.token_stride * problem.tokens;
  problem.weights_head_stride = int64_t{problem.levels} * problem.points;
  problem.weights_query_stride = problem.weights_head_stride * problem.heads;
  problem.weights_image_stride = problem.weights_query_stride * problem.queries;
  const int64_t map = problem.batch * problem.batch_stride;
  const int64_t points = problem.batch * problem.weights_image_stride;
  const int64_t items = problem.batch * problem.queries * problem.token_stride;

  const bool key_aware = name >= Operator::kKeyAwareDeformAttn;
  const bool backward =
      name == Operator::kMsDeformAttnBackward || name == Operator::kKeyAwareDeformAttnBackward;
  const Floats value = read_floats(map), sampling = read_floats(2 * points);
  const Floats weights = read_floats(key_aware ? 0 : points);
  const Floats query = read_floats(key_aware ? items : 0);
  const Floats key = read_floats(sizes[8] ? map : 0);
  const Floats grad_output = read_floats(backward ? items : 0);
  Floats output(items), grad_value(map), grad_key(key.size()), grad_query(query.size());
  Floats grad_sampling(2 * points), grad_weights(weights.size());
  const auto pointer = [](auto& floats) { return floats.empty() ? nullptr : floats.data(); };
  problem.value = pointer(value);
  problem.key = pointer(key);
  problem.query = pointer(query);
  problem.sampling = pointer(sampling);
  problem.weights = pointer(weights);
  if (backward) {
    problem.grad_output = pointer(grad_output);
    problem.grad_value = pointer(grad_value);
    problem.grad_key = pointer(grad_key);
    problem.grad_query = pointer(grad_query);
    problem.grad_sampling = pointer(grad_sampling);
    problem.grad_weights = pointer(grad_weights);
  } else {
    problem.output = pointer(output);
  }
  lite_focus::run_on_cpu(name, problem);
  if (backward) {
    for (const Floats* result :
         {&grad_query, &grad_key, &grad_value, &grad_sampling, &grad_weights}) {
      write(*result);
    }
  } else {
    write(output);
  }
}
