// The CUDA kernels as operators for tensors on the CPU; the test defines their schemas.
#include "cuda_emulation.h"
// The kernels come after the built-ins that they use.
#include "cuda/key_aware_deform_attn.cu"
#include "cuda/ms_deform_attn.cu"
#include "operators.h"

namespace lite_focus {
namespace {

struct EmulatedBackend {
  static constexpr bool kAddsInAnyOrder = true;
  static constexpr bool kCanIgnoreMaps = true;

  static void run(Operator name, const Problem& problem, const Tensor&) {
    const LaunchStatus status = run_on_cuda(name, problem, nullptr);
    STD_TORCH_CHECK(status.ok(), "deformable attention: ", describe(status, problem));
  }
};

}  // namespace
}  // namespace lite_focus

// Additions of single numbers to global memory since the last call.
extern "C" __attribute__((visibility("default"))) int64_t take_atomic_additions() {
  return std::exchange(emulation::atomic_additions, 0);
}

// Of blocks and threads, one for each seed.
extern "C" __attribute__((visibility("default"))) void set_order(unsigned seed) {
  emulation::order_seed = seed;
}

// What a block may have, as on a smaller GPU.
extern "C" __attribute__((visibility("default"))) void set_shared_bytes(int bytes) {
  emulation::shared_bytes_of_device = bytes;
}

// The most slots of the table of a tile with 16 points that are looked at until a token is found or
// has found a place.
extern "C" __attribute__((visibility("default"))) int longest_search(const int* tokens, int count) {
  using Lists = lite_focus::CornerLists<16>;
  std::vector<int> table(Lists::kTileCorners, -1);
  int longest = 0;
  for (int i = 0; i < count; ++i) {
    unsigned slot = Lists::first_slot(unsigned(tokens[i]));
    int steps = 1;
    for (; table[slot] != -1 && table[slot] != tokens[i]; ++steps) {
      slot = (slot + 1) % Lists::kTileCorners;
    }
    table[slot] = tokens[i];
    longest = std::max(longest, steps);
  }
  return longest;
}

STABLE_TORCH_LIBRARY_IMPL(lite_focus_detr_emulation, CPU, library) {
  using lite_focus::EmulatedBackend;
  library.impl("ms_deform_attn", TORCH_BOX(&lite_focus::ms_deform_attn_op<EmulatedBackend>));
  library.impl("ms_deform_attn_backward",
               TORCH_BOX(&lite_focus::ms_deform_attn_backward_op<EmulatedBackend>));
  library.impl("key_aware_deform_attn",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_op<EmulatedBackend>));
  library.impl("key_aware_deform_attn_backward",
               TORCH_BOX(&lite_focus::key_aware_deform_attn_backward_op<EmulatedBackend>));
}
