#include "kernels/cpu/cpu_ops.h"

namespace spotd::kernels::cpu {

void Select(const SelectArgs& args, ThreadPool& pool, SelectScratch& scratch) {
  const auto stride = static_cast<size_t>(args.selected_stride);
  Grow(scratch.mass, stride * static_cast<size_t>(pool.num_threads()));
  const int64_t choices = int64_t{args.batch.num_rows} * args.groups;
  pool.ParallelFor(choices, 1, [&](int64_t begin, int64_t end, int thread) {
    uint32_t* const mass = scratch.mass.data() + static_cast<size_t>(thread) * stride;
    for (int64_t c = begin; c < end; ++c) {
      const int64_t row = c / args.groups;
      const float* const lse =
          args.block_lse == nullptr ? nullptr : args.block_lse + c * args.lse_stride;
      const BudgetChoice choice =
          ChooseBlocks(args.rules[row], args.batch.kv_len[row], args.block_tokens, lse,
                       args.selected + c * args.selected_stride, mass);
      args.counts[c] = choice.count;
      args.covered_mass[c] = choice.covered;
    }
  });
}

}  // namespace spotd::kernels::cpu
