#include "runtime/model/decode_plan.h"

#include <algorithm>
#include <bit>

#include "kernels/core/check.h"

namespace spotd::model {
namespace {

constexpr int32_t kMinBucket = 16;

}  // namespace

Chooser ChooserFor(const Policy& policy, int32_t kv_len) {
  if (policy.kind == PolicyKind::kFull || kv_len <= policy.dense_below_tokens) {
    return Chooser::kDense;
  }
  switch (policy.kind) {
    case PolicyKind::kFull:
      break;
    case PolicyKind::kDistilled:
    case PolicyKind::kTopK:
      return Chooser::kSelector;
    case PolicyKind::kQuest:
      return Chooser::kQuest;
    case PolicyKind::kWindow:
      return Chooser::kWindow;
    case PolicyKind::kOracle:
      return policy.oracle_per_kv_head ? Chooser::kHeadOracle : Chooser::kOracle;
  }
  return Chooser::kDense;
}

int32_t BucketBlocks(int32_t blocks) {
  if (blocks <= kMinBucket) return kMinBucket;
  const auto below = static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(blocks - 1)));
  const int32_t step = below / 4;
  return (blocks + step - 1) / step * step;
}

DecodePlan::DecodePlan(int32_t max_rows, int32_t kv_heads, int32_t block_tokens,
                       int32_t selector_groups)
    : kv_heads_(kv_heads), block_tokens_(block_tokens), selector_groups_(selector_groups) {
  order_.reserve(static_cast<size_t>(max_rows));
}

int32_t DecodePlan::GroupsOf(Chooser chooser) const {
  switch (chooser) {
    case Chooser::kQuest:
    case Chooser::kHeadOracle:
      return kv_heads_;
    case Chooser::kSelector:
      return selector_groups_;
    case Chooser::kDense:
    case Chooser::kWindow:
    case Chooser::kOracle:
      return 1;
  }
  return 1;
}

void DecodePlan::Make(std::span<const Chooser> choosers, std::span<const int32_t> kv_lens,
                      bool trace) {
  SPOTD_CHECK(!choosers.empty() && choosers.size() == kv_lens.size());
  SPOTD_CHECK(choosers.size() <= order_.capacity());
  order_.clear();
  num_ranges_ = 0;
  trace_ = trace;
  for (int chooser = 0; chooser < kNumChoosers; ++chooser) {
    const auto kind = static_cast<Chooser>(chooser);
    const auto begin = static_cast<int32_t>(order_.size());
    for (size_t row = 0; row < choosers.size(); ++row) {
      if (choosers[row] == kind) order_.push_back(static_cast<int32_t>(row));
    }
    const int32_t rows = static_cast<int32_t>(order_.size()) - begin;
    row_counts_[static_cast<size_t>(chooser)] = rows;
    if (rows == 0) continue;
    ranges_[num_ranges_++] = {kind, begin, rows, GroupsOf(kind)};
  }
  const int32_t longest = *std::max_element(kv_lens.begin(), kv_lens.end());
  table_stride_ = BucketBlocks((longest + block_tokens_ - 1) / block_tokens_);
}

uint64_t DecodePlan::Key() const {
  uint64_t key = MixKey(0, static_cast<uint64_t>(table_stride_) * 2 + (trace_ ? 1 : 0));
  for (const int32_t rows : row_counts_) key = MixKey(key, static_cast<uint64_t>(rows));
  return key;
}

uint64_t MixKey(uint64_t key, uint64_t value) {
  // The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
  uint64_t x = key + value + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace spotd::model
