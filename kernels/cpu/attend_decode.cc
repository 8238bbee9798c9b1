// Decode attention. A unit of work is one (row, KV head) and one stretch of its chosen blocks; all
// query heads of the group share each load. Units leave partial softmax states, which are merged in
// the order of the stretches.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend_decode.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/core/softmax_state.h"
#include "kernels/cpu/attend-inl.h"
#include "kernels/cpu/attend_unit.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/paged.h"

HWY_BEFORE_NAMESPACE();
namespace spotd::kernels::cpu {
namespace HWY_NAMESPACE {

// Query heads of one group, and where their partial state goes: acc [heads, head_dim], zeroed.
struct GroupState {
  const float* q;  // scaled
  float* acc;
  float* max;  // base 2
  float* sum;
};

// Keys of block i of a stretch, which may lie in the stretch that the thread runs next; null where
// that is not known.
HWY_INLINE const Bf16* KeysAhead(const Stretch& s, int32_t i) {
  if (i < s.blocks) return s.Keys(i);
  return s.next != nullptr && i - s.blocks < s.next->blocks ? s.next->Keys(i - s.blocks) : nullptr;
}

template <int kHeads, class D>
HWY_INLINE void AttendTile(D d, const Stretch& s, int32_t begin, int32_t end,
                           const GroupState& state) {
  HWY_ALIGN float scores[kHeads * kTileTokens];
  const int dim = s.layer->head_dim;
  const int block_tokens = s.layer->block_tokens;
  const int64_t to_values = s.layer->kv_heads * HeadElements(*s.layer);
  int tokens = 0;
  for (int32_t i = begin; i < end; ++i) {
    const Bf16* const keys = s.Keys(i);
    const Bf16* const ahead = KeysAhead(s, i + end - begin);
    KeyDots<kHeads>(d, state.q, keys, s.TokensOf(i), dim, ahead, scores + tokens);
    tokens += s.TokensOf(i);
  }
  for (int h = 0; h < kHeads; ++h) {
    const float shrink = Exponentiate(scores + h * kTileTokens, tokens, state.max[h], state.sum[h]);
    if (shrink == 1.0f) continue;
    for (int i = 0; i < dim; ++i) state.acc[h * dim + i] *= shrink;
  }
  for (int32_t i = begin; i < end; ++i) {
    const Bf16* const ahead = KeysAhead(s, i + end - begin);
    AddValues<kHeads>(d, scores + (i - begin) * block_tokens, s.Keys(i) + to_values, s.TokensOf(i),
                      dim, ahead == nullptr ? nullptr : ahead + to_values, state.acc);
  }
}

template <class D>
HWY_INLINE void AttendHeads(D d, const Stretch& s, int32_t begin, int32_t end, int heads,
                            const GroupState& state) {
  switch (heads) {
    case 1:
      return AttendTile<1>(d, s, begin, end, state);
    case 2:
      return AttendTile<2>(d, s, begin, end, state);
    case 3:
      return AttendTile<std::min(3, kHeadChunk)>(d, s, begin, end, state);
    default:
      return AttendTile<kHeadChunk>(d, s, begin, end, state);
  }
}

template <class D>
HWY_NOINLINE void AttendStretch(D d, const Stretch& s, int group, const GroupState& state) {
  const int dim = s.layer->head_dim;
  const int32_t tile = std::max(1, kTileTokens / s.layer->block_tokens);
  for (int32_t begin = 0; begin < s.blocks; begin += tile) {
    const int32_t end = std::min(s.blocks, begin + tile);
    for (int h = 0; h < group; h += kHeadChunk) {
      const GroupState chunk = {state.q + h * dim, state.acc + h * dim, state.max + h,
                                state.sum + h};
      AttendHeads(d, s, begin, end, std::min(kHeadChunk, group - h), chunk);
    }
  }
}

// scaled_q: [group, head_dim] scratch.
void RunAttendUnit(const Stretch& s, int group, const float* q, float scale, float* scaled_q,
                   float* acc, float* max, float* sum) {
  const int dim = s.layer->head_dim;
  ScaleQueries(q, group * dim, scale, scaled_q);
  std::fill(acc, acc + group * dim, 0.0f);
  std::fill(max, max + group, -HUGE_VALF);
  std::fill(sum, sum + group, 0.0f);
  const GroupState state = {scaled_q, acc, max, sum};
  if (dim % LanesOf(Wide()) == 0) {
    AttendStretch(Wide(), s, group, state);
  } else {
    AttendStretch(Narrow(), s, group, state);
  }
  for (int h = 0; h < group; ++h) max[h] *= kLn2;
}

// The states of `units` consecutive units, merged in order. acc: [units, group, dim];
// max, sum: [units, group]; out: [group, dim]; lse: nullable. [group]
void MergeUnits(int32_t units, int group, int dim, const float* HWY_RESTRICT acc, const float* max,
                const float* sum, float* HWY_RESTRICT out, float* lse) {
  std::fill(out, out + group * dim, 0.0f);
  for (int h = 0; h < group; ++h) {
    SoftmaxState state = EmptySoftmaxState();
    float* HWY_RESTRICT to = out + h * dim;
    for (int32_t u = 0; u < units; ++u) {
      const int64_t head = int64_t{u} * group + h;
      const SoftmaxMerge merge = MergeSoftmax(state, {max[head], sum[head]});
      const float* HWY_RESTRICT from = acc + head * dim;
      for (int i = 0; i < dim; ++i) to[i] = to[i] * merge.scale_a + from[i] * merge.scale_b;
      state = merge.state;
    }
    const float inverse = InverseSum(state);
    for (int i = 0; i < dim; ++i) to[i] *= inverse;
    if (lse != nullptr) lse[h] = LogSumExp(state);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace spotd::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace spotd::kernels::cpu {
namespace {

HWY_EXPORT(RunAttendUnit);
HWY_EXPORT(MergeUnits);

// The chosen blocks of one (row, KV head).
struct Choice {
  const int32_t* blocks;  // null: all
  int32_t count;
};

Choice ChoiceOf(const AttendArgs& args, int32_t row, int32_t kv_head) {
  if (args.selected == nullptr) {
    return {nullptr, NumBlocks(args.batch.kv_len[row], args.layer.block_tokens)};
  }
  const int64_t choice = int64_t{row} * args.groups + (args.groups == 1 ? 0 : kv_head);
  return {args.selected + choice * args.selected_stride, args.counts[choice]};
}

// unit_start[i] is the first unit of pair i = row * kv_heads + kv_head; its last entry is their
// number.
void PlanUnits(const AttendArgs& args, AttendScratch& scratch) {
  const int32_t pairs = args.batch.num_rows * args.layer.kv_heads;
  const int32_t size = StretchBlocks(args.layer.block_tokens);
  scratch.unit_start.resize(static_cast<size_t>(pairs) + 1);
  int32_t units = 0;
  for (int32_t i = 0; i < pairs; ++i) {
    scratch.unit_start[static_cast<size_t>(i)] = units;
    const Choice choice = ChoiceOf(args, i / args.layer.kv_heads, i % args.layer.kv_heads);
    units += (choice.count + size - 1) / size;
  }
  scratch.unit_start.back() = units;
}

void ReserveStates(const AttendArgs& args, int threads, AttendScratch& scratch) {
  const auto group = static_cast<size_t>(args.q_heads / args.layer.kv_heads);
  const auto heads = static_cast<size_t>(scratch.unit_start.back()) * group;
  const auto dim = static_cast<size_t>(args.layer.head_dim);
  Grow(scratch.max, heads);
  Grow(scratch.sum, heads);
  Grow(scratch.acc, heads * dim);
  Grow(scratch.queries, static_cast<size_t>(threads) * group * dim);
}

// The (row, KV head) pair that a unit belongs to.
int32_t PairOf(const AttendScratch& scratch, int64_t unit) {
  const auto& start = scratch.unit_start;
  const auto after = std::upper_bound(start.begin(), start.end(), static_cast<int32_t>(unit));
  return static_cast<int32_t>(after - start.begin()) - 1;
}

Stretch StretchOf(const AttendArgs& args, const AttendScratch& scratch, int64_t unit) {
  const int32_t pair = PairOf(scratch, unit);
  const int32_t row = pair / args.layer.kv_heads;
  const int32_t kv_head = pair % args.layer.kv_heads;
  const Choice choice = ChoiceOf(args, row, kv_head);
  return MakeStretch(args.batch, args.layer, row, kv_head, choice.blocks, choice.count,
                     static_cast<int32_t>(unit) - scratch.unit_start[static_cast<size_t>(pair)],
                     StretchBlocks(args.layer.block_tokens));
}

void RunUnits(const AttendArgs& args, int64_t begin, int64_t end, int thread,
              AttendScratch& scratch) {
  const int64_t group = args.q_heads / args.layer.kv_heads;
  const int64_t group_size = group * args.layer.head_dim;
  Stretch stretch = StretchOf(args, scratch, begin);
  for (int64_t unit = begin; unit < end; ++unit) {
    Stretch next = {};
    if (unit + 1 < scratch.unit_start.back()) {
      next = StretchOf(args, scratch, unit + 1);
      stretch.next = &next;
    }
    HWY_DYNAMIC_DISPATCH(RunAttendUnit)
    (stretch, static_cast<int>(group),
     static_cast<const float*>(args.q) + PairOf(scratch, unit) * group_size, args.scale,
     scratch.queries.data() + thread * group_size, scratch.acc.data() + unit * group_size,
     scratch.max.data() + unit * group, scratch.sum.data() + unit * group);
    stretch = next;
  }
}

void MergePair(const AttendArgs& args, int64_t pair, const AttendScratch& scratch) {
  const int64_t group = args.q_heads / args.layer.kv_heads;
  const int64_t dim = args.layer.head_dim;
  const int64_t first = scratch.unit_start[static_cast<size_t>(pair)];
  const int64_t units = scratch.unit_start[static_cast<size_t>(pair) + 1] - first;
  HWY_DYNAMIC_DISPATCH(MergeUnits)
  (static_cast<int32_t>(units), static_cast<int>(group), static_cast<int>(dim),
   scratch.acc.data() + first * group * dim, scratch.max.data() + first * group,
   scratch.sum.data() + first * group, static_cast<float*>(args.out) + pair * group * dim,
   args.lse == nullptr ? nullptr : args.lse + pair * group);
}

}  // namespace

void Attend(const AttendArgs& args, ThreadPool& pool, AttendScratch& scratch) {
  PlanUnits(args, scratch);
  ReserveStates(args, pool.num_threads(), scratch);
  pool.ParallelFor(scratch.unit_start.back(), 1, [&](int64_t begin, int64_t end, int thread) {
    RunUnits(args, begin, end, thread, scratch);
  });
  constexpr int64_t kMergeGrain = 4;
  const int64_t pairs = int64_t{args.batch.num_rows} * args.layer.kv_heads;
  pool.ParallelFor(pairs, kMergeGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t pair = begin; pair < end; ++pair) MergePair(args, pair, scratch);
  });
}

}  // namespace spotd::kernels::cpu
#endif  // HWY_ONCE
