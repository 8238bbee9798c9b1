// Scores, choice and attention of rows that *flow*, where one call issues all three
// (Backend::AttendByScore), on sm_90: a row need not wait for the others.
//
// The three kernels are launched one after the other as ever (dependent launch), but the later ones
// wait for their own row only: a block's score is its own message, and a row's list is announced by
// the members of the cluster that made it. So choices hide behind other rows' bytes. A kernel waits
// only for those before it, all of whose thread blocks have begun when its own may: it never takes
// the place of what it waits for.
#pragma once

#include "kernels/cuda/launch.h"

namespace spotd::kernels::cuda {

inline constexpr int kLeastFlowRows = 5;  // fewer are faster one kernel after the other
inline constexpr int kMostFlowRows = 16;
inline constexpr int kLeastFlowBlocks = 512;     // of the longest row
inline constexpr int kMostFlowBlocks = 1 << 18;  // of all rows, each of the longest one's length
inline constexpr int kMemberDone = 1 << 24;      // above any number of blocks

// In device memory, all zero between steps: the choice clears the scores, the merge of attention's
// splits `ready`.
struct RowFlow {
  uint32_t* scores = nullptr;  // [rows, stride] BudgetOrder of the scores, which is never zero
  uint32_t* ready = nullptr;   // [rows] each member's kMemberDone + its number of blocks
  int32_t stride = 0;          // a multiple of 4
  int32_t members = 0;         // of a row's cluster
};

// Bytes of what RowFlow points to.
inline constexpr size_t kRowFlowBytes = (kMostFlowRows + kMostFlowBlocks) * sizeof(uint32_t);

// In `memory`, kRowFlowBytes; empty where the rows are to be served together.
RowFlow MakeRowFlow(const LaunchContext& ctx, const SelectorScoreArgs& score,
                    const SelectArgs& select, const AttendArgs& attend, void* memory);

// --- selector_score_rows.cu ---
bool ScoresByRow(const LaunchContext& ctx, const SelectorScoreArgs& args);
// Only rows whose scores matter to `rules` are scored, and nowhere else than in `flow`.
cudaError_t LaunchScoreRows(const LaunchContext& ctx, const SelectorScoreArgs& args,
                            const BudgetRule* rules, const RowFlow& flow);
// --- select_cluster.cu ---
cudaError_t LaunchSelectRows(const LaunchContext& ctx, const SelectArgs& args, const RowFlow& flow);
// --- attend_decode.cu ---
cudaError_t LaunchAttend(const LaunchContext& ctx, const AttendArgs& args, void* scratch,
                         const RowFlow& flow);

}  // namespace spotd::kernels::cuda
